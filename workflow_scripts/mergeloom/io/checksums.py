"""SHA-256 of files, and of folders of files."""

import hashlib
import os
from functools import lru_cache
from pathlib import Path


def sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's bytes, as 64 hexadecimal digits.

    That of a folder is of the names below it and the SHA-256 of each file, in the order of names;
    hidden files do not count.

    A process that asks again for a file that has not changed meanwhile gets the same answer without
    reading it again.
    """
    if os.path.isdir(path):
        return _sha256_of_folder(Path(path))
    state = os.stat(path)
    return _sha256(os.path.realpath(path), state.st_ino, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=1024)
def _sha256(path: str, inode: int, size: int, changed: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha256_of_folder(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            digest.update(f"{sha256(path)}  {name.as_posix()}\n".encode())
    return digest.hexdigest()
