"""Files, and folders of files, that appear whole or not at all."""

import errno
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mergeloom.errors import MergeloomError

_HOST = socket.gethostname()
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path to write to, which becomes `path` when the block ends well.

    The temporary file lies in the same directory under a hidden name of its own and with the same
    final suffix; the block may make a folder of it instead. When the block ends, it is flushed to
    the disk and renamed over `path`; when the block raises, it is removed and `path` is left as it
    was. Missing parents are created. What a killed process of this host left of an earlier attempt
    at `path` is removed.

    Raises
    ------
    MergeloomError
        If the disk is full, or the quota is used up.
    FileNotFoundError
        If the block ended well without having written the temporary file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_remains(path)
    temporary, former = _hidden(path), _hidden(path)
    try:
        yield temporary
        _flush(temporary)
        if temporary.is_dir() and path.is_dir():
            os.replace(path, former)  # a folder takes the place of nothing but an empty one
        os.replace(temporary, path)
        _flush(path.parent)
    except OSError as error:
        if error.errno in _FULL:
            raise MergeloomError(
                f"{path}: there is not enough room to write it ({os.strerror(error.errno)}). "
                "Nothing of it was kept. Free some space, or move the root that it belongs to "
                "(MODELS_PATH, DATA_PATH, RESULTS_PATH) to another disk."
            ) from error
        raise
    finally:
        _remove(temporary)
        _remove(former)


def _hidden(path: Path) -> Path:
    name = f".{path.stem}.{_HOST}-{os.getpid()}-{secrets.token_hex(4)}{path.suffix}"
    return path.parent / name


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _remove_remains(path: Path) -> None:
    remains = re.compile(
        rf"\.{re.escape(path.stem)}\.{re.escape(_HOST)}-(\d+)-[0-9a-f]{{8}}{re.escape(path.suffix)}"
    )
    for file in path.parent.iterdir():
        found = remains.fullmatch(file.name)
        if found and not _lives(int(found[1])):
            _remove(file)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
