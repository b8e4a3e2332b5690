"""Files of a data set of the hub, by the splits that they belong to."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mergeloom.errors import MergeloomError
from mergeloom.io.checksums import sha256
from mergeloom.io.hub import fetch, listing


class HubFiles:
    """The files of a data set of the hub, downloaded one by one.

    Parameters
    ----------
    source : the entry of a task's preset: `hub`, `revision`, `files` (patterns by split).

    Attributes
    ----------
    title : what the data set is called in messages.
    downloads : what was fetched: "repository@commit/file" -> SHA-256.

    Raises
    ------
    MergeloomError – a pattern of `files` that no file of the repository matches, and whatever the
    hub refuses.
    """

    def __init__(self, source: Mapping[str, Any]) -> None:
        self._repository, self._revision = source["hub"], source["revision"]
        self.title = f"data set {self._repository} (revision {self._revision})"
        self.downloads: dict[str, str] = {}
        there_is = listing(self._repository, self._revision, "dataset")
        self._files = {
            # A file that two patterns match is one file.
            split: list(
                dict.fromkeys(file for glob in globs for file in self._matching(glob, there_is))
            )
            for split, globs in source["files"].items()
        }

    def fetched(self, split: str) -> Iterator[tuple[str, Path]]:
        """The files of a split in order: "repository/file", and where its download lies."""
        for file in self._files[split]:
            yield f"{self._repository}/{file}", self._fetch(file)

    def _fetch(self, file: str) -> Path:
        path = fetch(self._repository, file, self._revision, "dataset")
        # The cache holds {…}/snapshots/{commit}/{file}. What a branch stood at when the first file
        # was fetched holds for all of them.
        self._revision = path.parents[file.count("/")].name
        self.downloads[f"{self._repository}@{self._revision}/{file}"] = sha256(path)
        return path

    def _matching(self, glob: str, files: Sequence[str]) -> list[str]:
        pattern = re.escape(glob).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
        found = [file for file in files if re.fullmatch(pattern, file)]
        if not found:
            raise MergeloomError(
                f"{self.title}: no file matches {glob!r}; it has {len(files)} files, the first are "
                f"{', '.join(sorted(files)[:8])}. Correct `files` in the preset."
            )
        return sorted(found, key=_by_number)


def _by_number(file: str) -> list[int | str]:
    """Sorts 2.tar before 10.tar: texts and numbers take turns."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", file)]
