"""Features and labels of a split as a probe reads them: rows by number, float32, on its device."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mergeloom.errors import MergeloomError

_BLOCK = 2**24  # values that are looked at together when features are checked


class LabelledFeatures(NamedTuple):
    """A split of a data set as one model sees it.

    features : [n, d], float16 or float32; a memory-mapped array is read where it is needed.
    labels : [n], whole numbers from 0.
    """

    features: np.ndarray | Tensor
    labels: np.ndarray


class FeatureTable:
    """Rows of a split, each with a one behind its features: what a bias is multiplied by.

    Parameters
    ----------
    split : the features and labels, checked here.
    memory : bytes that the features may take as float32 on the device; larger ones are read anew
        for every batch.
    title : of the split, for messages.

    Raises
    ------
    MergeloomError – features that are no matrix of numbers, that are not finite, or without rows;
    labels that are not whole numbers from 0, or not as many as there are rows.
    """

    def __init__(self, split: LabelledFeatures, device: str, memory: int, title: str) -> None:
        features = split.features
        self._features = features.numpy() if isinstance(features, Tensor) else features
        self.title, self.device = title, device
        labels = _check(self._features, np.asarray(split.labels), title)
        self.labels = torch.from_numpy(labels.astype(np.int64)).to(device)
        rows, columns = self._features.shape
        self.rows, self.columns = rows, columns + 1
        self._held = None
        if rows * self.columns * 4 <= memory:
            self._held = self._read(slice(None)).to(device)

    def take(self, rows: Tensor) -> Tensor:
        """Rows by their numbers (int64 [b], on the CPU): float32 [b, d + 1], on the device."""
        if self._held is None:
            return self._read(rows.numpy()).to(self.device)
        return self._held[rows.to(self.device)]

    def _read(self, rows: np.ndarray | slice) -> Tensor:
        some = self._features[rows]
        out = np.empty((len(some), self.columns), np.float32)
        out[:, :-1] = some
        out[:, -1] = 1
        return torch.from_numpy(out)


def _check(features: np.ndarray, labels: np.ndarray, title: str) -> np.ndarray:
    """Check features and labels, and return the labels."""
    if features.ndim != 2 or features.dtype.kind != "f" or 0 in features.shape:
        raise MergeloomError(
            f"{title}: features are {features.dtype} {list(features.shape)}, expected a matrix of "
            "floating-point numbers, a row for each example: flatten them, and give at least one"
        )
    if labels.shape != (len(features),):
        raise MergeloomError(
            f"{title}: {len(features)} rows of features, but labels have the shape "
            f"{list(labels.shape)}: extract features and labels from the same split"
        )
    if labels.dtype.kind not in "iu" or labels.min() < 0:
        raise MergeloomError(
            f"{title}: labels are {labels.dtype}, the least is {labels.min()}: expected whole "
            "numbers from 0, a place in the list of classes"
        )
    block = max(1, _BLOCK // features.shape[1])
    for start in range(0, len(features), block):
        finite = np.isfinite(features[start : start + block]).all(axis=1)
        if not finite.all():
            raise MergeloomError(
                f"{title}: features of row {start + int(np.argmin(finite))} are not finite: "
                "extract them anew, in float32 if they were too large for float16"
            )
    return labels
