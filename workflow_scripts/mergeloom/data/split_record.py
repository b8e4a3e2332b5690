"""What a task's record of splits says; apart from how the splits are compared and drawn."""

from pathlib import Path

import numpy as np

from mergeloom.io.jsonfile import read_json


def indices_of(path: Path, split: str) -> np.ndarray | None:
    """Which images a split has, by a task's record of splits.

    Returns
    -------
    int64 [n], sorted indices into train for `train` and `val`; None if the split is its own shards.
    """
    record = read_json(path)
    if record["validation"] is None or split == "test":
        return None
    drawn = np.array(record["validation"], np.int64)
    return drawn if split == "val" else np.setdiff1d(np.arange(record["images"]["train"]), drawn)
