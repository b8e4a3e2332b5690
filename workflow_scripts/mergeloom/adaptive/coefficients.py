"""Which coefficients an adapter chose for the inputs of each task, as a table."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mergeloom.adaptive.adapter import Adapter
from mergeloom.adaptive.scores import Features

COLUMNS = ("task", "expert", "layer", "mean", "std")
ROWS = 256  # of inputs whose coefficients are computed at a time


class Moments:
    """Mean and standard deviation of tensors that come in rows, in float64, where these are."""

    def __init__(self) -> None:
        self.count, self._total, self._squares = 0, torch.zeros(()), torch.zeros(())

    def add(self, values: Tensor) -> None:
        """Add rows [n, ...]."""
        values = values.double()
        self.count += len(values)
        self._total = self._total.to(values) + values.sum(dim=0)
        self._squares = self._squares.to(values) + values.square().sum(dim=0)

    @property
    def mean(self) -> Tensor:
        """[...], on the processor."""
        return (self._total / self.count).cpu()

    @property
    def std(self) -> Tensor:
        """[...], of all rows, on the processor."""
        return (self._squares.cpu() / self.count - self.mean.square()).clamp_min(0).sqrt()


class Chosen:
    """Collects what an adapter chooses within forward passes.

    Attributes
    ----------
    task : whose inputs are passing.
    """

    def __init__(self) -> None:
        self.task = ""
        self.moments: dict[tuple[str, str | None], Moments] = defaultdict(Moments)

    def __call__(self, layer: str | None, weights: Tensor) -> None:
        """Weights [g, K] of a layer."""
        self.moments[self.task, layer].add(weights)

    def enter(self, task: str) -> None:
        """From now on it is inputs of this task."""
        self.task = task


@torch.no_grad()
def table(
    adapter: Adapter,
    tasks: Sequence[str],
    experts: Sequence[str],
    features: Features | None,
    chosen: Chosen,
) -> Mapping[str, list[Any]]:
    """Mean and standard deviation, over the inputs of each task, of what is chosen for one alone.

    Parameters
    ----------
    tasks : of the inputs.
    experts : tasks whose task vectors are mixed, in their order.
    features : φ(x) of the inputs; None for an adapter that takes none.
    chosen : what was chosen within forward passes of single inputs, of an adapter that does; of an
        input that chooses for each of its tokens, the mean.

    Returns
    -------
    Columns `task`, `expert`, `layer` (name of a parameter, or None for all of them), `mean`, `std`.
    """
    found: dict[str, list[Any]] = {name: [] for name in COLUMNS}

    def add(task: str, layer: str | None, mean: Tensor, std: Tensor) -> None:
        for index, expert in enumerate(experts):
            row = (task, expert, layer, float(mean[index]), float(std[index]))
            for name, value in zip(COLUMNS, row, strict=True):
                found[name].append(value)

    if adapter.within:
        for (task, layer), moments in chosen.moments.items():
            add(task, layer, moments.mean, moments.std)
        return found
    for task in tasks:
        moments = Moments()
        for part in [None] if features is None else features[task].split(ROWS):
            moments.add(adapter.coefficients(part, 1 if part is None else len(part)))
        mean, std = moments.mean, moments.std
        if mean.ndim == 1:
            add(task, None, mean, std)
            continue
        for place, layer in enumerate(adapter.mixture.keys):
            add(task, layer, mean[:, place], std[:, place])
    return found
