"""Caches of singular value decompositions that know which bytes they were computed from."""

from collections.abc import Sequence

from mergeloom.errors import MergeloomError
from mergeloom.io.checksums import sha256
from mergeloom.io.tensors import TensorFile
from mergeloom.merging.sources import PathLike

SOURCE = "source"  # field of a cache's header: SHA-256 of the files it was computed from


def source_of(paths: Sequence[PathLike]) -> str:
    """The key of what was computed from these files, whatever their order: a sum has none."""
    return " ".join(sorted(sha256(path) for path in paths))


def check_source(cache: TensorFile, paths: Sequence[PathLike]) -> None:
    """Raise unless a cache was computed from the bytes that these files have now.

    Raises
    ------
    MergeloomError
        Names the cache and the files.
    """
    if cache.metadata.get(SOURCE) != source_of(paths):
        names = ", ".join(map(str, paths[:3])) + (" …" if len(paths) > 3 else "")
        raise MergeloomError(
            f"{cache.path}: was not computed from what {names} holds now. Remove it, so that it "
            "is computed again."
        )
