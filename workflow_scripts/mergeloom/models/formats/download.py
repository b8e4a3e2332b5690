"""A checkpoint of the hub, with what lies beside it and says how its weights are used."""

from pathlib import Path, PurePosixPath

from mergeloom.io.checksums import sha256
from mergeloom.io.hub import fetch, listing
from mergeloom.models.formats.sources import ADAPTER, CONFIG, OPEN_CLIP


def download_checkpoint(
    repository: str, file: str, revision: str | None = None
) -> tuple[Path, dict[str, str]]:
    """Fetch a file and, of the same commit, the configuration beside it.

    Returns
    -------
    The file in the hub's cache; and repository, file, the commit that `revision` stands for, and
    SHA-256.

    Raises
    ------
    MergeloomError
        See `mergeloom.io.hub.fetch`.
    """
    path = fetch(repository, file, revision)
    commit = path.parts[-1 - len(PurePosixPath(file).parts)]  # …/snapshots/{commit}/{file}
    there = set(listing(repository, commit))
    for name in (CONFIG, ADAPTER, OPEN_CLIP):
        beside = str(PurePosixPath(file).with_name(name))
        if beside in there:
            fetch(repository, beside, commit)
    record = {"repository": repository, "file": file, "commit": commit, "sha256": sha256(path)}
    return path, record
