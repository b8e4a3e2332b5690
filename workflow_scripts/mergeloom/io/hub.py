"""Files of the Hugging Face hub, or of a mirror that speaks as it does.

The client's usual environment variables hold: HF_ENDPOINT, HF_HOME and HF_HUB_CACHE, HF_TOKEN,
HF_HUB_OFFLINE, HF_HUB_DOWNLOAD_TIMEOUT, HF_HUB_ETAG_TIMEOUT. What it raises becomes an error that
names the repository and says what to do.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Literal

from mergeloom.errors import MergeloomError

KINDS = ("models--", "datasets--")  # begin the names of a repository's folder in the cache
RepositoryKind = Literal["model", "dataset"]
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def fetch(
    repository: str, file: str, revision: str | None = None, kind: RepositoryKind = "model"
) -> Path:
    """Download a file of a repository, unless the cache has it, and return its place in the cache.

    Parameters
    ----------
    repository : "owner/name".
    file : path within the repository.
    revision : commit hash, branch or tag; None for the default branch. Only a commit hash names
        the same bytes for ever.

    Raises
    ------
    MergeloomError
        For a repository, revision or file that is not there, one that needs a token, a hub that
        does not answer or sends half a file, offline mode without a cached file, or a full disk.
    """
    from huggingface_hub import hf_hub_download

    with _explained(_name(repository, revision, kind, file)):
        return Path(hf_hub_download(repository, file, revision=revision, repo_type=kind))


def listing(
    repository: str, revision: str | None = None, kind: RepositoryKind = "model"
) -> list[str]:
    """Names of the files of a repository, sorted.

    In offline mode they are those of the cached snapshot: what was fetched before.

    Raises
    ------
    MergeloomError
        As `fetch` does.
    """
    from huggingface_hub import HfApi, constants, snapshot_download

    with _explained(_name(repository, revision, kind)):
        if not constants.is_offline_mode():
            api = HfApi()
            # These take a time limit, which the listing of a tree does not.
            info = api.dataset_info if kind == "dataset" else api.model_info
            found = info(repository, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT)
            return sorted(entry.rfilename for entry in found.siblings or ())
        folder = Path(
            snapshot_download(repository, revision=revision, repo_type=kind, local_files_only=True)
        )
        return sorted(
            path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
        )


def commit_of(path: Path, file: str) -> str:
    """The commit that a fetched file is of.

    Parameters
    ----------
    path : …/snapshots/{commit}/{file}, as `fetch` returns it for `file`.
    """
    return path.parts[-1 - len(PurePosixPath(file).parts)]


def named(path: Path) -> str:
    """What a downloaded file is called in records: "repository@commit/file".

    Parameters
    ----------
    path : …/{kind}--{owner}--{name}/snapshots/{commit}/{file}, as `fetch` returns it. A file that
        is of no hub has its own name.
    """
    parts = path.parts
    at = max((i for i, part in enumerate(parts) if part.startswith(KINDS)), default=None)
    if at is None:
        return path.name
    repository = parts[at].split("--", 1)[1].replace("--", "/")
    return f"{repository}@{parts[at + 2]}/{'/'.join(parts[at + 3 :])}"


def _name(repository: str, revision: str | None, kind: str, file: str = "") -> str:
    text = f"{'data set ' if kind == 'dataset' else ''}{repository}"
    return f"{text}{f'/{file}' if file else ''} (revision {revision or 'of the default branch'})"


@contextmanager
def _explained(what: str) -> Iterator[None]:
    import httpx2
    from huggingface_hub import constants, errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise MergeloomError(
            f"{what}: is gated. Accept its terms on {constants.ENDPOINT} with your account, then "
            "log in by `hf auth login` or set HF_TOKEN to a token of that account."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise MergeloomError(
            f"{what}: {constants.ENDPOINT} has no such repository, or it is private. Check the "
            "name; of a private one set HF_TOKEN; a mirror (HF_ENDPOINT) may lack it."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise MergeloomError(
            f"{what}: the repository has no such revision, or has it no more. Set `revision` to "
            "a commit that it has, or to its branch."
        ) from error
    except errors.RemoteEntryNotFoundError as error:
        raise MergeloomError(
            f"{what}: the repository has no such file at this revision. Check the file's name."
        ) from error
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as error:
        raise MergeloomError(_unreached(what, error, constants.is_offline_mode())) from error
    except errors.HFValidationError as error:
        raise MergeloomError(f"{what}: is no name of a repository ({error}).") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        remedy = (
            "Set HF_TOKEN to a valid token, or log in by `hf auth login`."
            if status in (401, 403)
            else "Try again later, or set HF_ENDPOINT to a mirror."
        )
        raise MergeloomError(
            f"{what}: {constants.ENDPOINT} answered with status {status}. {remedy}"
        ) from error
    except httpx2.TimeoutException as error:
        raise MergeloomError(
            f"{what}: {constants.ENDPOINT} did not answer in time. Try again, or raise "
            "HF_HUB_DOWNLOAD_TIMEOUT and HF_HUB_ETAG_TIMEOUT (seconds)."
        ) from error
    except httpx2.HTTPError as error:
        raise MergeloomError(
            f"{what}: the connection to {constants.ENDPOINT} broke ({error}). Nothing "
            "of the file was kept; try again."
        ) from error
    except RuntimeError as error:  # what the hub's client for large files raises
        raise MergeloomError(
            f"{what}: the download failed ({error}). Try again, or set HF_HUB_DISABLE_XET=1 to "
            "download in the plain way."
        ) from error
    except OSError as error:
        if error.errno in _FULL:
            raise MergeloomError(
                f"{what}: there is not enough room in the cache {constants.HF_HUB_CACHE} "
                f"({os.strerror(error.errno or 0)}). Free some, or set HF_HOME to another disk."
            ) from error
        if "Consistency check failed" not in str(error):
            raise
        raise MergeloomError(
            f"{what}: {constants.ENDPOINT} sent another number of bytes than it announced. Nothing "
            "of it was kept; try again, and if it happens again, look at proxy or mirror."
        ) from error


def _unreached(what: str, error: Exception, offline: bool) -> str:
    if offline:
        return (
            f"{what}: is not in the cache, and offline mode is on. Fetch it once with "
            "HF_HUB_OFFLINE=0, or copy a cache that has it (HF_HOME)."
        )
    cause = error.__cause__
    return (
        f"{what}: the hub cannot be reached ({type(cause or error).__name__}), and the cache does "
        "not have it. Check the connection, proxy and HF_ENDPOINT, then try again."
    )
