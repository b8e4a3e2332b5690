"""Files that appear whole or not at all."""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mergeloom.errors import MergeloomError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path to write to, which becomes `path` when the block ends well.

    The temporary file lies in the same directory under a hidden name of its own and with the same
    final suffix. When the block ends, it is flushed to the disk and renamed over `path`; when the
    block raises, it is removed and `path` is left as it was. Missing parents are created.

    Raises
    ------
    MergeloomError
        If the disk is full, or the quota is used up.
    FileNotFoundError
        If the block ended well without having written the temporary file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    name = f".{path.stem}.{os.getpid()}-{secrets.token_hex(4)}{path.suffix}"
    temporary = path.parent / name
    try:
        yield temporary
        _flush(temporary)
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
        temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
