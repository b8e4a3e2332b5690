"""SHA-256 of files."""

import hashlib
import os
from functools import lru_cache


def sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's bytes, as 64 hexadecimal digits.

    A process that asks again for a file that has not changed meanwhile gets the same answer without
    reading it again.
    """
    state = os.stat(path)
    return _sha256(os.path.realpath(path), state.st_ino, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=1024)
def _sha256(path: str, inode: int, size: int, changed: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
