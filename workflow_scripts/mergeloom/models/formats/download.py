"""A checkpoint of the hub, with what lies beside it and says how its weights are used."""

from pathlib import Path, PurePosixPath

from mergeloom.io.checksums import sha256
from mergeloom.io.hub import commit_of, fetch, listing, named
from mergeloom.models.formats.files import ADAPTER, CONFIG, OPEN_CLIP


def download_checkpoint(
    repository: str, file: str, revision: str | None = None
) -> tuple[Path, dict[str, str]]:
    """Fetch a file and, of the same commit, the configuration beside it.

    Returns
    -------
    The file in the hub's cache; and all that was fetched, "repository@commit/file" -> SHA-256, the
    commit being the one that `revision` stands for.

    Raises
    ------
    MergeloomError
        See `mergeloom.io.hub.fetch`.
    """
    path = fetch(repository, file, revision)
    commit = commit_of(path, file)
    fetched = [path]
    there = set(listing(repository, commit))
    for name in (CONFIG, ADAPTER, OPEN_CLIP):
        beside = str(PurePosixPath(file).with_name(name))
        if beside in there:
            fetched.append(fetch(repository, beside, commit))
    return path, {named(found): sha256(found) for found in fetched}
