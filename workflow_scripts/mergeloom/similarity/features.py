"""The features of all models, as measures take them."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

from mergeloom.merging.pool import Pool, pool
from mergeloom.similarity.feature_sets import FeatureSet

# Up to this many rows everything is computed in float64: rounding does not average out over few
# rows, and they cost nothing.
FEW_ROWS = 1024
_HELD = 2**31  # bytes of features in memory; more go to temporary files
# Rows and columns of the tile of a kernel that is worked on: one that a core's cache holds.
_TILE = {"cpu": (256, 1024), "cuda": (1024, 4096)}

Item = TypeVar("Item")
Result = TypeVar("Result")


class Features:
    """The features of M models on the same n rows.

    Parameters
    ----------
    sets : those of the models whose similarities are known already, then those of the new ones.
    known : how many are known. A measure gives the rows of the others: [M - known, M].
    normalise : divide each row of features by its length first.
    device : "cpu" or "cuda".
    dtype : torch.float32 or torch.float64 to compute in; float64 for up to 1024 rows, else
        float32, if not given. Sums over rows are in float64 either way.
    tile : rows and columns, at least as many as rows, of the part of a kernel that is worked on at
        a time.
    """

    def __init__(
        self,
        sets: Sequence[FeatureSet],
        known: int = 0,
        *,
        normalise: bool = True,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
        tile: tuple[int, int] | None = None,
    ) -> None:
        self.models = [found.model for found in sets]
        self.paths = [found.path for found in sets]
        self.known, self.device = known, device
        self.n = sets[0].n
        self.dtype = dtype or (torch.float64 if self.n <= FEW_ROWS else torch.float32)
        self.tile = tile or _TILE[device]
        # Who takes longest begins first, so that threads end together.
        self.by_width = sorted(range(len(sets)), key=lambda model: -sets[model].d)
        self._sets, self._normalise = sets, normalise

    def __len__(self) -> int:
        return len(self._sets)

    def read(self, model: int, dtype: torch.dtype | None = None) -> Tensor:
        """The features of one model: Tensor [n, d] of `dtype`, on the device."""
        found = self._sets[model].read(dtype or self.dtype, normalise=self._normalise)
        return found.to(self.device)

    def prepared(self, prepare: Callable[[int], Tensor]) -> list[Tensor]:
        """What a measure makes of each model's features once, for all tiles.

        Parameters
        ----------
        prepare : of a model's index, Tensor [n, k]; about as large as its features.

        Returns
        -------
        M tensors of `dtype`, in memory. On the CPU, those that would take more than two gibibytes
        are mapped from temporary files without a name, which end with the tensors.
        """
        made: list[Tensor] = []
        held = 0
        with self.threads() as threads:
            for values in threads.map(
                lambda model: prepare(model).to(self.dtype), range(len(self))
            ):
                held += values.nbytes
                spilled = self.device == "cpu" and held > _HELD
                made.append(_spilled(values) if spilled else values)
        return made

    def pairs(self) -> Iterator[tuple[int, int]]:
        """Each pair of different models of which at least one is new: (new, other)."""
        for new in range(self.known, len(self)):
            for other in range(new):
                yield new, other

    def of_pairs(self, function: Callable[[tuple[int, int]], Tensor]) -> Tensor:
        """A symmetric function of each pair with a new model; 1 for a model and itself.

        Returns
        -------
        Tensor [M - known, M], float64, on the CPU.
        """
        values = torch.eye(len(self), dtype=torch.float64)
        pairs = list(self.pairs())
        with self.threads() as threads:
            for (new, other), value in zip(pairs, threads.map(function, pairs), strict=True):
                values[new, other] = values[other, new] = float(value)
        return values[self.known :]

    def empty(self, *shape: int) -> Tensor:
        """Room for values of `dtype` on the device."""
        return torch.empty(shape, dtype=self.dtype, device=self.device)

    def zeros64(self, *shape: int) -> Tensor:
        """Room for sums in float64 on the device."""
        return torch.zeros(shape, dtype=torch.float64, device=self.device)

    @contextmanager
    def threads(self) -> "Iterator[Threads]":
        """Threads that each work on a model of their own; one, on a GPU."""
        count = torch.get_num_threads() if self.device == "cpu" else 1
        with pool(count, "cpu") as made:
            yield Threads(made, count)


class Threads:
    """Work on several models at a time: products of one on all cores wait for each other more."""

    def __init__(self, made: Pool, count: int) -> None:
        self._pool, self.count = made, count

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Apply a function to all items; results come in order, and few are waiting at a time."""
        return self._pool.map(function, items)

    def each(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Apply a function to all items."""
        return list(self.map(function, items))


def _spilled(values: Tensor) -> Tensor:
    with tempfile.NamedTemporaryFile(prefix="mergeloom-") as file:
        size = values.numel()
        mapped = torch.from_file(file.name, shared=True, size=size, dtype=values.dtype)
    return mapped.view(values.shape).copy_(values)
