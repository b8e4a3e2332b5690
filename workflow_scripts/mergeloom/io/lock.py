"""Locks that the kernel gives up when their process ends, however it ends."""

import fcntl
import os
import socket
from pathlib import Path

_held: list[int] = []  # descriptors, kept open for the life of the process


def join_runs(path: Path) -> str:
    """Join the runs that work in one folder, until this process ends.

    Parameters
    ----------
    path : a file for the lock; its folder is made.

    Returns
    -------
    str – `dead` when no other run holds the lock and the last one that did was on this host:
    whatever marks that run left, it is over. `other host` when it was on another host, where the
    lock may not be seen. `alive` when another run holds the lock. `first` when no run ever did.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # not inherited by jobs
    _held.append(descriptor)
    host = socket.gethostname()
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        return "alive"
    last = os.pread(descriptor, 1000, 0).decode()
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, host.encode(), 0)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    if not last:
        return "first"
    return "dead" if last == host else "other host"
