"""Locks that the kernel gives up when their process ends, however it ends."""

import fcntl
import os
import socket
from pathlib import Path
from typing import Literal

_held: list[int] = []  # descriptors, kept open for the life of the process


def begin_run(folder: Path, jobs: Literal["local", "cluster"]) -> bool:
    """Join the runs that work in one folder until this process ends; clear what a dead one left.

    Snakemake marks what it works on by files in `{folder}/locks`, which a killed run leaves behind.
    Every run holds `{folder}/mergeloom.lock` while it lives, so marks of runs that
    are over are known, and are removed: if the last run was on this host, where its lock would be
    seen, and its jobs were local, since those of a cluster live on without it.

    Parameters
    ----------
    folder : Snakemake's own folder, `.snakemake`.
    jobs : where this run's jobs go.

    Returns
    -------
    bool – whether marks of a dead run were removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / "mergeloom.lock", os.O_RDWR | os.O_CREAT, 0o666)
    _held.append(descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        alone = True
    except BlockingIOError:
        alone = False
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    marks = sorted((folder / "locks").glob("*.lock"))
    last = os.pread(descriptor, 1000, 0).decode()
    dead = alone and bool(marks) and last == f"{socket.gethostname()} local"
    if dead:
        for mark in marks:
            mark.unlink(missing_ok=True)
    if dead or not marks or jobs == "cluster":  # marks that stay keep their owner's name
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{socket.gethostname()} {jobs}".encode(), 0)
    return dead
