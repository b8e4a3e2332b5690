"""What a task's record of splits says; apart from how the splits are compared and drawn."""

from pathlib import Path

import numpy as np

from mergeloom.errors import MergeloomError
from mergeloom.io.jsonfile import read_json


def indices_of(path: Path, split: str) -> np.ndarray | None:
    """Which examples a split has, by a task's record of splits, or of a balanced training set.

    Returns
    -------
    int64 [n], sorted indices into train for `train` and `val`; None if the split is its own shards.

    Raises
    ------
    MergeloomError – indices that are out of order or out of range, or an image that trains and
    validates.
    """
    record = read_json(path)
    try:
        count = int(record["texts" if "texts" in record else "images"]["train"])
        training, validation = (
            None if record[key] is None else _indices(record[key], count)
            for key in ("training", "validation")
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise MergeloomError(
            f"{path}: is damaged ({type(error).__name__}: {error}); delete it, and it is made again"
        ) from None
    if validation is not None and training is None:
        training = np.setdiff1d(np.arange(count), validation)
    elif validation is not None and training is not None:
        both = np.intersect1d(training, validation)
        if len(both):
            raise MergeloomError(
                f"{path}: is damaged: {len(both)} images train and validate, the first is "
                f"{both[0]}; delete it, and it is made again"
            )
    return {"train": training, "val": validation}.get(split)


def _indices(given: list[int], count: int) -> np.ndarray:
    indices = np.asarray(given)
    if indices.ndim != 1 or indices.dtype != np.int64:
        raise ValueError("indices are not a list of whole numbers")
    if (np.diff(indices) <= 0).any() or indices[0] < 0 or indices[-1] >= count:
        raise ValueError(f"indices are not in ascending order, or not below {count}")
    return indices
