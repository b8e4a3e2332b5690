"""What a merge method is given: a parameter of T task vectors, or a run of its elements."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mergeloom.io.tensors import TensorFile, check_finite
from mergeloom.linalg.spectral import polar_and_nuclear_norm, truncated_svd
from mergeloom.merging.method import Factors, Method
from mergeloom.merging.pool import Pool
from mergeloom.merging.randomness import BLOCK, Random
from mergeloom.merging.sources import Source
from mergeloom.merging.task_vector import read_factors
from mergeloom.models.naming import Place

if TYPE_CHECKING:
    from mergeloom.merging.grams import Gram, Grams

_ELEMENTS = 2**20  # of all tasks together in a run of elements: 4 MiB, what a cache holds


class Summed:
    """The sum of T task vectors of one parameter, and what is known of its spectrum.

    With a cache of its singular value decomposition, the task vectors are not read for matrices.
    """

    def __init__(self, total: Callable[[], Tensor], triples: Callable[[], Factors] | None) -> None:
        self._total = total
        self._triples = triples

    @property
    def cached(self) -> bool:
        """Whether a cache has the decomposition."""
        return self._triples is not None

    @cached_property
    def total(self) -> Tensor:
        """The sum itself [*shape], float32."""
        return self._total()

    def polar(self) -> tuple[Tensor, Tensor]:
        """Return the polar factor U Vᵀ [m, n] of the matrix and the sum of its singular values."""
        if self._triples is None:
            return polar_and_nuclear_norm(self.total)
        factors = self._triples()
        return factors.U @ factors.Vt, factors.S.sum()

    def svd(self, rank: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return its leading U [m, rank], S [rank] and Vt [rank, n]."""
        if self._triples is None:
            U, S, Vt = truncated_svd(self.total, rank)
            return U, S[:rank], Vt
        factors = self._triples()
        return factors.U[:, :rank], factors.S[:rank], factors.Vt[:rank]


@dataclass(frozen=True)
class Material:
    """What all groups of a merge share.

    source : the task vectors.
    places : of every trained parameter, by name.
    svd : caches of each task's singular vectors, in the order of the task vectors.
    summed : cache of the singular value decomposition of their sum.
    fisher : files of each task's Fisher information, in the order of the task vectors.
    gram, propagated : Gram matrices of what linear maps are fed.
    statistics : what a method's survey found.
    """

    source: Source
    places: dict[str, Place]
    device: str
    seed: int
    identities: list[bytes]
    svd: Sequence[TensorFile] | None = None
    summed: TensorFile | None = None
    fisher: Sequence[TensorFile] = ()
    gram: "Grams | None" = None
    propagated: "Grams | None" = None
    statistics: Any = None


class Group:
    """One parameter, or a run of its elements. Its attributes are the inputs of merge methods.

    They are computed when a method asks for them: one that takes singular vectors from a cache
    never reads the task vectors. Tensors are float32 on the device; of a run of elements they are
    flat.
    """

    def __init__(self, material: Material, key: str, start: int = 0, stop: int | None = None):
        self.place = material.places[key]
        self.statistics = material.statistics
        self.whole = stop is None
        self._material = material
        self._start = start
        self._stop = math.prod(self.place.shape) if stop is None else stop

    @property
    def tasks(self) -> int:
        """T."""
        return len(self._material.source)

    @property
    def share(self) -> int:
        """The number of singular values that each task gets, ⌊min(m, n) / T⌋."""
        return min(self.place.shape) // self.tasks

    @cached_property
    def deltas(self) -> Tensor:
        """Task vectors [T, *shape] or [T, n]."""
        values = self._material.source.stack(self.place.key, self._start, self._stop)
        return self._on_device(values.view(self.tasks, *self.shape))

    @cached_property
    def total(self) -> Tensor:
        """Their sum [*shape] or [n]."""
        if "deltas" in self.__dict__:
            return self.deltas.sum(dim=0)
        values = self._material.source.total(self.place.key, self._start, self._stop)
        return self._on_device(values.view(self.shape))

    def mean(self) -> Tensor:
        """Their mean [*shape] or [n]."""
        return self.total / self.tasks

    @cached_property
    def base(self) -> Tensor:
        """The parameter before fine-tuning [*shape] or [n]."""
        values = self._material.source.base(self.place.key, self._start, self._stop)
        return self._on_device(values.view(self.shape))

    @cached_property
    def fisher(self) -> Tensor:
        """Diagonal Fisher information of each task's model [T, *shape] or [T, n]."""
        values = torch.empty(self.tasks, self._stop - self._start)
        for file, row in zip(self._material.fisher, values, strict=True):
            file.read_run(self.place.key, self._start, row)
            if not row.sum().isfinite():
                check_finite(file.read(self.place.key), file.path, self.place.key)
        return self._on_device(values.view(self.tasks, *self.shape))

    @property
    def gram(self) -> "Gram | None":
        """Gram matrices of what a linear map is fed; None of what is none."""
        return self._gram(self._material.gram)

    @property
    def propagated(self) -> "Gram | None":
        """The same, where the blocks before it are the merged ones."""
        return self._gram(self._material.propagated)

    @property
    def random(self) -> Random:
        """Random numbers of these elements."""
        return Random(
            self._material.seed,
            self._material.identities,
            self.place.key,
            self._start,
            self._stop,
            self._material.device,
        )

    @cached_property
    def svd(self) -> Factors:
        """The leading `share` singular triples of each task's matrix."""
        if self._material.svd is not None:
            factors = read_factors(self._material.svd, self.place.key, self.share)
            return Factors(*map(self._on_device, (factors.U, factors.S, factors.Vt)))
        # Task by task: the float64 copies of one matrix at a time.
        parts = [truncated_svd(self.delta(task), self.share) for task in range(self.tasks)]
        U, S, Vt = (torch.stack(part) for part in zip(*parts, strict=True))
        return Factors(U, S[:, : self.share], Vt)

    @cached_property
    def summed(self) -> Summed:
        """Their sum with its SVD and polar factor."""
        file, key = self._material.summed, self.place.key
        if file is None or f"{key}.S" not in file:
            return Summed(lambda: self.total, None)

        def triples() -> Factors:
            factors = read_factors([file], key, file.shape(f"{key}.S")[0])
            return Factors(*(self._on_device(p[0]) for p in (factors.U, factors.S, factors.Vt)))

        return Summed(lambda: self.total, triples)

    def delta(self, task: int) -> Tensor:
        """The task vector of one task [*shape], without those of the others."""
        if "deltas" in self.__dict__:
            return self.deltas[task]
        values = self._material.source.one(self.place.key, task)
        return self._on_device(values.view(self.shape))

    def _gram(self, grams: "Grams | None") -> "Gram | None":
        found = grams.get(self.place.key) if grams else None
        return found and replace(found, of=lambda task: self._on_device(found.of(task)))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensors: the parameter's, or [n] of a run of its elements."""
        return self.place.shape if self.whole else (self._stop - self._start,)

    def _on_device(self, tensor: Tensor) -> Tensor:
        if self._material.device == "cpu":
            return tensor
        # From pinned memory the copy runs beside what other threads compute.
        return tensor.pin_memory().to(self._material.device, non_blocking=True)


@dataclass(frozen=True)
class Stack:
    """The task vectors of equally shaped matrices of L blocks, never held all at once.

    shape : [m, n] of one matrix.
    keys : of the L matrices, in the order of the blocks.
    """

    shape: tuple[int, ...]
    keys: tuple[str, ...]
    material: Material
    pool: Pool

    @property
    def tasks(self) -> int:
        """T."""
        return len(self.material.source)

    def matrices(self, layer: int) -> Iterator[Tensor]:
        """Give the task vectors [m, n] of a block, task by task, float32."""
        group = Group(self.material, self.keys[layer])
        return (group.delta(task) for task in range(self.tasks))

    def rows(self) -> Iterator[slice]:
        """Cut the rows into runs of which those of all tasks and blocks are held easily."""
        step = max(1, 4 * _ELEMENTS // (self.tasks * len(self.keys) * self.shape[1]))
        for start in range(0, self.shape[0], step):
            yield slice(start, min(start + step, self.shape[0]))

    def block(self, rows: slice) -> Tensor:
        """Return these rows of all tasks and blocks [T, L, rows, n], float32."""
        columns = self.shape[1]
        parts = [
            Group(self.material, key, rows.start * columns, rows.stop * columns).deltas
            for key in self.keys
        ]
        return torch.stack(parts, dim=1).unflatten(2, (-1, columns))

    def combine(self, weights: Tensor) -> Tensor:
        """Return Σ_t w_t Δ_t of all blocks [L, m, n], float32; weights [T], float64, on the CPU."""
        size = math.prod(self.shape)
        result = torch.empty(len(self.keys), size, device=self.material.device)
        factors = weights.to(result)

        def run(where: tuple[int, tuple[int, int]]) -> None:
            layer, span = where
            deltas = Group(self.material, self.keys[layer], *span).deltas
            torch.mv(deltas.T, factors, out=result[layer, slice(*span)])

        runs = ((i, span) for i in range(len(self.keys)) for span in spans(size, self.tasks))
        for _ in self.pool.map(run, runs):
            pass
        return result.unflatten(1, self.shape)


class Survey:
    """A first pass through the whole model, for methods that need to know all of it.

    `each` applies a function to all parameters in runs of elements, several at a time.
    """

    def __init__(self, material: Material, pool: Pool) -> None:
        self._material = material
        self._pool = pool

    @property
    def tasks(self) -> int:
        """T."""
        return len(self._material.source)

    @property
    def places(self) -> dict[str, Place]:
        """Where in the model each parameter is, by name."""
        return self._material.places

    @property
    def size(self) -> int:
        """The number of elements of one task vector."""
        return sum(math.prod(place.shape) for place in self.places.values())

    def each(self, function: Callable[[Group], Any]) -> Iterator[Any]:
        """Apply a function to runs of elements of all parameters; results come in order."""
        runs = (
            Group(self._material, key, *span) for key in self.places for span in self._spans(key)
        )
        return self._pool.map(function, runs)

    def _spans(self, key: str) -> Iterator[tuple[int, int]]:
        return spans(math.prod(self.places[key].shape), self.tasks)


def spans(size: int, held: float) -> Iterator[tuple[int, int]]:
    """Cut `size` elements into runs of which a processor's cache holds so many at a time."""
    step = max(int(_ELEMENTS / held) // BLOCK, 1) * BLOCK
    for start in range(0, size, step):
        yield start, min(start + step, size)


def apply(method: Method, group: Group, settings: dict[str, Any], **more: Any) -> Tensor:
    """Call a method with its inputs from a group, and from `more`."""
    inputs = (more[name] if name in more else getattr(group, name) for name in method.inputs)
    return method.function(*inputs, **settings)
