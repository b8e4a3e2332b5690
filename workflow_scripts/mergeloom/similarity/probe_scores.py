"""What linear probes are right about: of many at once on validation data, of one in detail."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mergeloom.evaluation.metrics import Confusion, TopAccuracy
from mergeloom.similarity.feature_table import FeatureTable

_ROWS = 1024  # whose logits are held together
_LOGITS = 2**24  # that are held together of many probes


class Scores(NamedTuple):
    """Fractions of 1 of `n` examples.

    top5 : NaN with fewer than 6 classes, as the study has it: it would be 1, or the top-1 accuracy
        of a guess.
    mean_class_recall : over the classes that have examples.
    """

    top1: float
    top5: float
    mean_class_recall: float
    n: int


def accuracies(table: FeatureTable, rows: Tensor, weights: Tensor) -> list[float]:
    """Top-1 accuracy of M probes, a fraction of 1; 0 for one whose weights are not finite.

    Parameters
    ----------
    rows : int64 [n], on the CPU – the examples of `table` that count.
    weights : Tensor [M, C, d + 1], float32 or float64.
    """
    many, classes, _ = weights.shape
    together = max(1, _LOGITS // (_ROWS * classes))
    right = torch.zeros(many, dtype=torch.int64, device=weights.device)
    for batch in rows.split(_ROWS):
        features = table.take(batch).to(weights.dtype)
        labels = table.labels[batch.to(table.device)]
        for start in range(0, many, together):
            part = weights[start : start + together]
            logits = (features @ part.flatten(0, 1).T).view(len(batch), len(part), classes)
            right[start : start + together] += (logits.argmax(dim=2) == labels[:, None]).sum(dim=0)
    right *= weights.flatten(1).isfinite().all(dim=1)
    return [int(count) / len(rows) for count in right]


def score(table: FeatureTable, weight: Tensor) -> Scores:
    """Score one probe, Tensor [C, d + 1], on all rows of a table."""
    classes = len(weight)
    first = TopAccuracy(classes, table.device, k=1)
    fifth = TopAccuracy(classes, table.device)
    confusion = Confusion(classes, table.device)
    for batch in torch.arange(table.rows).split(_ROWS):
        logits = table.take(batch).to(weight.dtype) @ weight.T
        labels = table.labels[batch.to(table.device)]
        for counter in (first, fifth, confusion):
            counter.update(logits, labels)
    top5 = fifth.score() if classes > 5 else math.nan
    return Scores(first.score(), top5, confusion.score(), table.rows)
