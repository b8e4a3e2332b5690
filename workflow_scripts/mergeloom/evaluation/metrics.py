"""Metrics on request: top-5 accuracy, mean per-class recall, calibration.

Each is a counter: `update` with the logits of a batch, then `score`. Counts stay on the device.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from mergeloom.evaluation.accuracy import Counter

BINS = 15


class Metric(Counter, Protocol):
    """A counter whose counts come down to one number."""

    def score(self) -> float:
        """The metric over all that was counted."""
        ...


class TopAccuracy:
    """Share of images whose label is among the `k` highest logits.

    A task with fewer than `k` classes takes as many as it has, which is 1 for every model.
    """

    def __init__(self, classes: int, device: str, k: int = 5) -> None:
        self._k = min(k, classes)
        self._right = torch.zeros((), dtype=torch.int64, device=device)
        self._n = 0

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Count a batch."""
        highest = logits.topk(self._k, dim=1).indices
        self._right += (highest == labels[:, None]).any(dim=1).sum()
        self._n += len(labels)

    def score(self) -> float:
        """A fraction of 1."""
        return int(self._right) / self._n


class Confusion:
    """How often which class was predicted for which: `counts` int64 [label, prediction]."""

    def __init__(self, classes: int, device: str) -> None:
        self.counts = torch.zeros(classes, classes, dtype=torch.int64, device=device)

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Count a batch."""
        cells = labels * len(self.counts) + logits.argmax(dim=1)
        found = torch.bincount(cells, minlength=self.counts.numel())
        self.counts += found.view_as(self.counts)

    def score(self) -> float:
        """Mean per-class recall, a fraction of 1, over the classes that have images."""
        counts = self.counts.double()
        there = counts.sum(dim=1) > 0
        return float((counts.diagonal()[there] / counts.sum(dim=1)[there]).mean())


class Reliability:
    """Confidence (the highest softmax probability) against accuracy, in bins of equal width.

    Bin i holds confidences in (i/B, (i+1)/B]. Of each: `count` int64 [B], `correct` int64 [B], and
    `confidence` float64 [B], the sum of them. After arXiv 1706.04599, with their 15 bins.
    """

    def __init__(self, classes: int, device: str, bins: int = BINS) -> None:
        self.count, self.correct = (
            torch.zeros(bins, dtype=torch.int64, device=device) for _ in range(2)
        )
        self.confidence = torch.zeros(bins, dtype=torch.float64, device=device)
        self._edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=device)[1:-1]

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Count a batch."""
        confidence, predicted = logits.double().softmax(dim=1).max(dim=1)
        inside = torch.bucketize(confidence, self._edges)[:, None] == torch.arange(
            len(self.count), device=labels.device
        )
        self.count += inside.sum(dim=0)
        self.correct += (inside & (predicted == labels)[:, None]).sum(dim=0)
        self.confidence += (inside * confidence[:, None]).sum(dim=0)

    def score(self) -> float:
        """Expected calibration error: Σ_b |correct_b − confidence_b| / n, a fraction of 1."""
        apart = (self.correct.double() - self.confidence).abs().sum()
        return float(apart / self.count.sum())


METRICS: dict[str, Callable[[int, str], Any]] = {
    "top5": TopAccuracy,
    "mean_class_recall": Confusion,
    "ece": Reliability,
}
