"""A hub on loopback that huggingface_hub talks to when HF_ENDPOINT points at it, with faults.

with Hub() as hub:
    commit = hub.add("dataset", "someone/flowers", {"data/train-0.parquet": content})
    run(..., env=hub.environment(tmp_path))
"""

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_the_tests"


@dataclass
class Repository:
    """Revisions of one repository: branch or commit -> commit, commit -> path -> content."""

    gated: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)


class Hub:
    """Serve repositories until the block ends.

    Attributes
    ----------
    requests : (method, path) of everything that was asked, in order.
    """

    #: What can go wrong with a request for a file, or (`error`, `hang`) with any request.
    FAULTS: ClassVar = ("cut", "short", "hang", "error", "forbidden")

    def __init__(self):
        self.repositories = {}
        self.requests = []
        self._faults = []
        self._released = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.hub = self
        self._server.daemon_threads = True

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._released.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self._server.server_port}"

    def environment(self, cache, **more):
        """Variables that point the hub's client here, with a cache and no token of this machine."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(cache),
            "HF_HUB_CACHE": str(Path(cache, "hub")),
            "HF_TOKEN_PATH": str(Path(cache, "no-token")),
            "HF_TOKEN": "",
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_ETAG_TIMEOUT": "2",
            "HF_HUB_DOWNLOAD_TIMEOUT": "2",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
            **more,
        }

    def add(self, kind, repo, files, branch="main", gated=False):
        """Commit files (path -> bytes or Path) of a `model` or `dataset`; gives the commit."""
        contents = {
            path: content if isinstance(content, bytes) else Path(content).read_bytes()
            for path, content in files.items()
        }
        digest = hashlib.sha1(repo.encode())
        for path in sorted(contents):
            digest.update(path.encode() + b"\0" + contents[path])
        commit = digest.hexdigest()
        repository = self.repositories.setdefault((kind, repo), Repository())
        repository.gated = gated
        repository.branches[branch] = commit
        repository.commits[commit] = contents
        return commit

    def remove(self, kind, repo, revision):
        """Make a revision gone: the branch, or the commit and every branch on it."""
        repository = self.repositories[kind, repo]
        commit = repository.branches.pop(revision, None)
        if commit is None:
            del repository.commits[revision]
            kept = {b: c for b, c in repository.branches.items() if c != revision}
            repository.branches = kept

    def fault(self, what, files="*", times=10**9):
        """Let the next requests for matching paths go wrong.

        `cut`: the connection ends half way through the file, each time at the same byte.
        `short`: only half of the file is announced and sent. `hang`: nothing is answered for 20 s.
        `error`: 500. `forbidden`: 403, as to a token that may not.
        """
        assert what in self.FAULTS
        self._faults.append([what, files, times])

    def mend(self):
        """End all faults; what hangs is let go."""
        self._faults.clear()
        self._released.set()
        self._released = threading.Event()

    def downloads(self):
        """Paths of the files whose content was sent for, in order."""
        return [p for method, p in self.requests if method == "GET" and "/resolve/" in p]

    def _fault_of(self, path):
        for entry in self._faults:
            what, files, times = entry
            everywhere = what in ("error", "hang") or "/resolve/" in path
            if times and everywhere and fnmatchcase(path, files):
                entry[2] -= 1
                return what
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30
    API = re.compile(
        r"/api/(model|dataset)s/(?P<repo>[^/]+(?:/[^/]+)?)"
        r"(?:/(?P<what>revision|tree|paths-info)/(?P<revision>[^/]+)(?:/(?P<path>.*))?)?"
    )
    RESOLVE = re.compile(
        r"/(datasets/)?(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)"
    )

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self._answer()

    def do_POST(self):
        self._body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer()

    def _answer(self):
        hub = self.server.hub
        path = urlsplit(self.path).path
        hub.requests.append((self.command, unquote(path)))
        self._fault = None
        # The size and hash of a file that is sent by halves are told rightly.
        if not (self.command == "HEAD" and self._peek(path) in ("cut", "short")):
            self._fault = hub._fault_of(unquote(path))
        if self._fault == "hang":
            self.close_connection = True
            hub._released.wait(20)
            return
        if self._fault == "error":
            self._refuse(500, "InternalError", "something broke")
        elif self._fault == "forbidden":
            self._refuse(403, "GatedRepo", "Access to this repository is restricted.")
        elif found := self.API.fullmatch(path):
            self._describe(found)
        elif found := self.RESOLVE.fullmatch(path):
            self._resolve(found)
        else:
            self._refuse(404, "NotFound", "no such page")

    def _peek(self, path):
        faults = self.server.hub._faults
        return next((w for w, files, n in faults if n and fnmatchcase(unquote(path), files)), None)

    def _revision(self, kind, found):
        """Repository, commit and files that a URL names; None after the refusal was sent."""
        repository = self.server.hub.repositories.get((kind, unquote(found["repo"])))
        if repository is None:
            self._refuse(401, "RepoNotFound", "Repository not found")
            return None
        revision = unquote(found["revision"] or "main")
        commit = repository.branches.get(revision, revision)
        if commit not in repository.commits:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return repository, commit, repository.commits[commit]

    def _describe(self, found):
        kind = found[1]
        if (there := self._revision(kind, found)) is None:
            return
        repository, commit, files = there
        if found["what"] == "tree":
            below = unquote(found["path"] or "")
            folders = {p.rsplit("/", 1)[0] for p in files if "/" in p}
            entries = [
                {"type": "directory", "path": f, "oid": "0" * 40, "size": 0} for f in folders
            ]
            entries += [self._entry(path, content) for path, content in files.items()]
            entries = [e for e in entries if not below or e["path"].startswith(f"{below}/")]
            self._send_json(sorted(entries, key=lambda e: e["path"]))
        elif found["what"] == "paths-info":
            wanted = json.loads(self._body)["paths"]
            self._send_json([self._entry(p, files[p]) for p in wanted if p in files])
        else:
            self._send_json(
                {
                    "_id": commit[:24],
                    "id": unquote(found["repo"]),
                    "sha": commit,
                    "private": False,
                    "gated": "auto" if repository.gated else False,
                    "disabled": False,
                    "downloads": 0,
                    "likes": 0,
                    "tags": [],
                    "siblings": [{"rfilename": path} for path in sorted(files)],
                }
            )

    def _entry(self, path, content):
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        return {"type": "file", "path": path, "oid": blob, "size": len(content)}

    def _resolve(self, found):
        if (there := self._revision("dataset" if found[1] else "model", found)) is None:
            return
        repository, commit, files = there
        path = unquote(found["path"])
        if repository.gated and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._refuse(401, "GatedRepo", "Access to this repository is restricted. Log in.")
            return
        if path not in files:
            self._refuse(404, "EntryNotFound", "Entry not found", commit)
            return
        content = files[path]
        start, size = 0, len(content)
        end = size // 2 if self._fault else size
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted:
            start = int(wanted[1])
            size = min(size, int(wanted[2]) + 1) if wanted[2] else size
        body = content[start : min(size, end)]
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{len(content)}")
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header(
            "Content-Length", str(len(body) if self._fault == "short" else size - start)
        )
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.close_connection = self.close_connection or self._fault == "cut"

    def _send_json(self, content):
        text = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def _refuse(self, status, code, message, commit=None):
        text = json.dumps({"error": message}).encode()
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)
