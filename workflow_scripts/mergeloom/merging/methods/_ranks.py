"""Exact order statistics of all task vectors, for methods that cut at a rank."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from mergeloom.linalg.order import RankSelector, kth_largest
from mergeloom.merging.group import Group, Survey

# Ranks, counted from 1 for the largest, that are wanted of this many values.
Ranks = Callable[[int], Sequence[int]]
# By parameter and task, the magnitudes of the wanted ranks.
Cuts = dict[str, list[list[float]]]

_FEW = 1 << 16  # values that are sooner partitioned than counted


def magnitudes(survey: Survey, ranks: Ranks, scope: str) -> Cuts:
    """The magnitudes of given ranks in each task vector.

    Parameters
    ----------
    scope : "model", the ranks are among all elements of a task vector, or "tensor", among those of
        each parameter.
    """
    if scope == "tensor":
        return _of_tensors(survey, ranks)
    return dict.fromkeys(survey.places, of_model(survey, ranks, lambda group: group.deltas))


def of_model(
    survey: Survey, ranks: Ranks, values: Callable[[Group], Tensor], *, signed: bool = False
) -> list[list[float]]:
    """The magnitudes (or values) of given ranks of each task over the whole model.

    Parameters
    ----------
    values : gives [T, n], float32, of a run of n elements; called twice.
    """
    wanted = ranks(survey.size)
    selectors = [RankSelector(wanted, signed=signed) for _ in range(survey.tasks)]

    def add(group: Group) -> None:
        for selector, row in zip(selectors, values(group).cpu(), strict=True):
            selector.add(row)

    exhaust(survey.each(add))
    for selector in selectors:
        selector.refine()
    exhaust(survey.each(add))
    return [selector.values() for selector in selectors]


def largest(runs: Sequence[Tensor], ranks: Sequence[int]) -> list[float]:
    """The magnitudes of given ranks of float32 values that lie in memory in runs."""
    size = sum(run.numel() for run in runs)
    if size > _FEW:
        return kth_largest(lambda: (run.cpu() for run in runs), ranks)
    values = torch.cat([run.reshape(-1) for run in runs]).abs().cpu().numpy()
    places = [size - rank for rank in ranks]
    return [float(value) for value in np.partition(values, places)[places]]


def keep_from(values: Tensor, least: float, out: Tensor | None = None) -> Tensor:
    """Values of at least this magnitude, and zero for the others."""
    # `hardshrink` keeps what is larger than its limit: many times faster than a mask.
    limit = float(np.nextafter(np.float32(least), np.float32(0)))
    return torch.hardshrink(values, limit, out=out)


def exhaust(results: Iterable[None]) -> None:
    """Wait for work that has no results."""
    for _ in results:
        pass


def _of_tensors(survey: Survey, ranks: Ranks) -> Cuts:
    arrived: dict[str, list[Tensor]] = defaultdict(list)
    lock = Lock()

    def select(group: Group) -> tuple[str, list[list[float]]] | None:
        """The thread that brings a parameter's last run ranks the parameter."""
        key, size = group.place.key, math.prod(group.place.shape)
        deltas = group.deltas.cpu()  # another thread ranks it
        with lock:
            runs = arrived[key]
            runs.append(deltas)
            if sum(run.shape[1] for run in runs) < size:
                return None
            del arrived[key]
        wanted = ranks(size)
        return key, [largest([run[t] for run in runs], wanted) for t in range(group.tasks)]

    return dict(found for found in survey.each(select) if found)
