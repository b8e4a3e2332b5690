"""What task vectors have to do with one another, and with what a merge made of them.

Nothing here depends on alpha: all of it is the same for Δ and any positive multiple of it. What is
not defined (the direction of a task vector of zero, say) is NaN, and left out of means.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import reduce
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from mergeloom.errors import MergeloomError
from mergeloom.io.tensors import TensorFile
from mergeloom.linalg.spectral import truncated_svd
from mergeloom.merging.caches import check_source
from mergeloom.merging.group import Group, Material, spans
from mergeloom.merging.method import Factors
from mergeloom.merging.pool import Pool, pool
from mergeloom.merging.sources import Layout, PathLike, TaskVectorFiles
from mergeloom.models.naming import Place, naming, places
from mergeloom.models.weights import PER_TASK

LOST = 0.05  # of ‖Δ_m‖ that the directions which the alignment ratio looks at may leave out
_COLUMNS = 2**18  # values of each task that are turned to float64 at a time

Metrics = dict[str, Tensor]


def diagnose(
    task_vectors: Sequence[PathLike],
    merged: PathLike,
    svd: Sequence[PathLike],
    family: str,
    device: str = "cpu",
    workers: int | None = None,
) -> dict[str, Any]:
    """Say what a merge did to each of its tasks, for the whole model and for each of its matrices.

    Where a method gives one model per task, each task is compared with its own: `merged` files then
    hold tensors [T, *shape], and what is told of the merged model is told of M = T models instead
    of M = 1. Runs of elements and matrices are read one at a time for every worker. Sums are in
    float64, and do not depend on the number of workers.

    Parameters
    ----------
    task_vectors : T files as `write_task_vector` writes them.
    merged : the merged task vector, as `merge_files` writes it without alpha.
    svd : T files as `write_svd_cache` writes them, in the same order. Where they keep fewer vectors
        than the interference of T tasks needs, those are computed.
    family : name of the naming that tells matrices from vectors.
    device : where to compute, "cpu" or "cuda".
    workers : threads that work side by side; without it, torch's number of threads.

    Returns
    -------
    dict of what JSON can say, None for what is not defined: `per_task` (bool), `model` (see
    `of_elements`, over all trained parameters; and `cosine` [T][T]), `matrices` (by name: `kind`,
    `block`, `shape`, and the values of `of_elements` and `of_matrix`), `kinds` (the means over the
    matrices of the same kind in all blocks, and how many these are), `average` (the means over all
    matrices).

    Raises
    ------
    MergeloomError
        If the files are of different models, a cache is of another task vector, a value is not
        finite, or the model has no matrices.
    """
    kinds = naming(family)
    with ExitStack() as stack:
        source = stack.enter_context(TaskVectorFiles(task_vectors))
        models = stack.enter_context(_Models(merged, source))
        caches = [stack.enter_context(TensorFile(path)) for path in svd]
        for cache, path in zip(caches, task_vectors, strict=True):
            check_source(cache, [path])
        material = Material(source, places(kinds, source.shapes), device, 0, [], svd=caches)
        matrices = {key: p for key, p in material.places.items() if p.kind == "matrix"}
        if not matrices:
            raise MergeloomError(
                f"{source.paths[0]}: has no matrix, which is what a diagnosis is made of. Check "
                f"that it is a model of the family {family}."
            )
        threads = stack.enter_context(pool(workers or torch.get_num_threads()))
        sums = {key: _zeros(len(source)) for key in material.places}
        for key, part in _sums(material, models, threads):
            sums[key] = _added(sums[key], part)
        spectral = threads.map(lambda key: of_matrix(key, material, models), matrices)
        values = {
            key: {**of_elements(sums[key]), **found}
            for key, found in zip(matrices, spectral, strict=True)
        }
    total = reduce(_added, sums.values())
    blocks = sorted({p.depth for p in matrices.values() if p.stack})
    stacks: dict[str, list[str]] = {}
    for key, place in matrices.items():
        stacks.setdefault(place.stack or key, []).append(key)
    return {
        "per_task": models.per_task,
        "model": _plain({**of_elements(total), "cosine": _cosines(total.gram)}),
        "average": _plain(_mean(values.values())),
        "kinds": {
            kind: {"matrices": len(keys), **_plain(_mean(values[key] for key in keys))}
            for kind, keys in stacks.items()
        },
        "matrices": {
            key: {**_where(place, blocks), **_plain(values[key])} for key, place in matrices.items()
        },
    }


class Sums(NamedTuple):
    """Sums over elements of T task vectors Δ_t and of the models m_t that they are compared with.

    gram : Tensor [T, T] – ⟨Δ_s, Δ_t⟩.
    inner, square : Tensor [T] – ⟨Δ_t, m_t⟩ and ‖m_t‖².
    nonzero, same, opposite : Tensor [T] – elements where Δ_t is not zero; and where m_t has its
        sign, or the other one. At the rest of them m_t is zero.
    moved, unanimous : Tensor [] – elements where any task is not zero; and where all those that
        are not have one sign.
    """

    gram: Tensor
    inner: Tensor
    square: Tensor
    nonzero: Tensor
    same: Tensor
    opposite: Tensor
    moved: Tensor
    unanimous: Tensor


def of_elements(sums: Sums) -> Metrics:
    """Angles and signs of T task vectors and what was made of them.

    Returns
    -------
    cosine_with_merged : Tensor [T] – cosine of Δ_t and m_t.
    sign_agreement, sign_opposition : Tensor [T] – share of the elements where Δ_t is not zero at
        which m_t has the same sign, and the opposite one. At the rest m_t is zero.
    sign_unanimity : Tensor [] – of the elements that any task changes, the share that all tasks
        which change it move the same way. Of random signs it is 2^(1 - T).
    """
    # A model that is zero everywhere has neither direction nor signs.
    there = torch.where(sums.square > 0, 1.0, torch.nan).to(sums.square)
    return {
        "cosine_with_merged": _cosine(sums.inner, sums.gram.diagonal(), sums.square),
        "sign_agreement": sums.same / sums.nonzero * there,
        "sign_opposition": sums.opposite / sums.nonzero * there,
        "sign_unanimity": sums.unanimous / sums.moved,
    }


def of_matrix(key: str, material: Material, models: "_Models") -> Metrics:
    """Spectra and singular subspaces of T task vectors of one matrix [m, n], and of the merged one.

    Returns
    -------
    sti : Tensor [] – singular task interference ‖(UᵀU - I) Σ (VᵀV - I)‖₁ (arXiv 2412.00081), the
        sum of magnitudes of the entries, with the leading k = ⌊r/T⌋ singular triples of all tasks
        side by side. It says nothing of the merge. Not defined for T > r = min(m, n).
    sti_normalized : Tensor [] – the same over the sum of those singular values.
    sar : Tensor [T] – subspace alignment ratio ‖ΠΔ_t‖ / ‖Δ_t‖ (arXiv 2502.04959), Π the projection
        on the leading left singular vectors of the merged Δ_m, as few as keep
        ‖Δ_m - ΠΔ_m‖ ≤ 0.05 ‖Δ_m‖.
    sar_rank : Tensor [M] – how many these are.
    effective_rank, merged_effective_rank : Tensor [T], [M] – exponential of the entropy of the
        singular values, divided by their sum.
    stable_rank, merged_stable_rank : Tensor [T], [M] – ‖Δ‖² / σ_1².
    """
    group = Group(material, key)
    caches = material.svd or []
    if min(cache.shape(f"{key}.Vt")[0] for cache in caches) < group.share:
        group = Group(replace(material, svd=None), key)
    sti, normalized = interference(group.svd)
    spectra = torch.stack([cache.read(f"{key}.S").to(torch.float64) for cache in caches])
    merged, ranks, ratios = [], [], []
    for model in range(models.count):
        matrix = models.matrix(key, model).to(material.device)
        # Two calls: all values first, and then no more vectors than are looked at.
        values = truncated_svd(matrix, 0)[1]
        rank = rank_that_keeps(values)
        left = truncated_svd(matrix, rank)[0]
        for task in [model] if models.per_task else range(group.tasks):
            delta = material.source.one(key, task).view(matrix.shape)
            ratios.append(_alignment(left, delta.to(matrix)))
        merged.append(values.cpu())
        ranks.append(rank if values.any() else torch.nan)
    return {
        "sti": sti.cpu(),
        "sti_normalized": normalized.cpu(),
        "sar": torch.stack(ratios).cpu(),
        "sar_rank": torch.tensor(ranks, dtype=torch.float64),
        "effective_rank": effective_rank(spectra),
        "stable_rank": stable_rank(spectra),
        "merged_effective_rank": effective_rank(torch.stack(merged)),
        "merged_stable_rank": stable_rank(torch.stack(merged)),
    }


def interference(svd: Factors) -> tuple[Tensor, Tensor]:
    """Singular task interference, and the same over the sum of the singular values; float64."""
    left = svd.U.to(torch.float64).transpose(0, 1).flatten(1)
    right = svd.Vt.to(torch.float64).flatten(0, 1)
    values = svd.S.to(torch.float64).flatten()
    if len(values) == 0:
        return values.new_tensor(torch.nan), values.new_tensor(torch.nan)
    one = torch.eye(len(values), dtype=values.dtype, device=values.device)
    sti = ((left.mT @ left - one) * values @ (right @ right.mT - one)).abs().sum()
    return sti, sti / values.sum()


def rank_that_keeps(values: Tensor) -> int:
    """How many of the singular values [r], descending, leave out at most `LOST` of the norm."""
    squares = values.square().flip(0).cumsum(0).flip(0)
    return int((squares > LOST**2 * squares[0]).sum())


def effective_rank(values: Tensor) -> Tensor:
    """Exponential of the entropy of singular values [..., r] over their sum."""
    return torch.special.entr(values / values.sum(-1, keepdim=True)).sum(-1).exp()


def stable_rank(values: Tensor) -> Tensor:
    """Squared Frobenius norm over the squared spectral norm, of singular values [..., r]."""
    return values.square().sum(-1) / values[..., 0].square()


def cosine_matrix(task_vectors: Sequence[PathLike], family: str) -> np.ndarray:
    """Cosine similarity of whole task vectors, flattened and concatenated over parameters.

    A task vector of zero has no direction: its similarity with the others is given as 0.

    Parameters
    ----------
    task_vectors : T files.
    family : name of the model family; what it freezes is left out.

    Returns
    -------
    ndarray [T, T], float64, symmetric, ones on the diagonal.
    """
    kind = naming(family).kind
    with TaskVectorFiles(task_vectors) as source:
        gram = torch.zeros(len(source), len(source), dtype=torch.float64)
        for key, shape in source.shapes.items():
            if kind(key, shape) != "frozen":
                for start in range(0, (size := math.prod(shape)), _COLUMNS):
                    block = source.stack(key, start, min(start + _COLUMNS, size)).to(torch.float64)
                    gram += block @ block.T
    return _cosines(gram).nan_to_num().fill_diagonal_(1).numpy()


class _Models:
    """The merged task vector as a file: one, or one for each of T tasks."""

    def __init__(self, path: PathLike, source: TaskVectorFiles) -> None:
        with TensorFile(path) as file:
            self.per_task = PER_TASK in file.metadata
        self.count = len(source) if self.per_task else 1
        lead = (self.count,) if self.per_task else ()
        layout = Layout(source.paths[0], {k: (*lead, *s) for k, s in source.shapes.items()})
        self._file = TaskVectorFiles([path], layout=layout)
        self._shapes = source.shapes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.__exit__()

    def run(self, key: str, start: int, stop: int) -> Tensor:
        """Return elements `start` to `stop` of every model's parameter [M, n], float32."""
        size = math.prod(self._shapes[key])
        firsts = range(0, self.count * size, size)
        return torch.cat([self._file.stack(key, f + start, f + stop) for f in firsts])

    def matrix(self, key: str, model: int) -> Tensor:
        """Return a matrix [m, n] of one model, float64."""
        size = math.prod(self._shapes[key])
        run = self._file.stack(key, model * size, (model + 1) * size)
        return run.view(self._shapes[key]).to(torch.float64)


def _sums(material: Material, models: _Models, threads: Pool) -> Iterator[tuple[str, Sums]]:
    """Give the sums over each run of elements of every parameter, in order."""
    source, device = material.source, material.device

    def work(run: tuple[str, int, int]) -> tuple[str, Sums]:
        deltas = source.stack(*run).to(device, torch.float64)
        merged = models.run(*run).to(deltas)
        products = deltas * merged
        positive, negative = (deltas > 0).any(0), (deltas < 0).any(0)
        sums = Sums(
            gram=deltas @ deltas.T,
            inner=products.sum(1),
            square=merged.square().sum(1).expand(len(source)),
            nonzero=(deltas != 0).sum(1),
            same=(products > 0).sum(1),
            opposite=(products < 0).sum(1),
            moved=(positive | negative).sum(),
            unanimous=(positive ^ negative).sum(),
        )
        return run[0], Sums(*(part.to("cpu", torch.float64) for part in sums))

    return threads.map(
        work,
        (
            (key, *span)
            for key, place in material.places.items()
            for span in spans(math.prod(place.shape), len(source) + models.count)
        ),
    )


def _added(one: Sums, other: Sums) -> Sums:
    return Sums(*map(torch.add, one, other))


def _zeros(tasks: int) -> Sums:
    zeros = torch.zeros(tasks, dtype=torch.float64)
    return Sums(torch.outer(zeros, zeros), *[zeros] * 5, *[zeros.new_zeros(())] * 2)


def _cosine(inner: Tensor, square: Tensor, other: Tensor) -> Tensor:
    # The roots first: squares of small norms are too small for float64 when multiplied.
    return (inner / (square.sqrt() * other.sqrt())).clamp(-1, 1)


def _cosines(gram: Tensor) -> Tensor:
    square = gram.diagonal()
    cosines = _cosine(gram, square.unsqueeze(0), square.unsqueeze(1))
    return cosines.diagonal_scatter(torch.where(square > 0, 1.0, torch.nan).to(cosines))


def _alignment(left: Tensor, delta: Tensor) -> Tensor:
    """Share of the norm of a matrix within the span of orthonormal columns, NaN if those are none.

    Rounding may take it past 1.
    """
    if left.shape[1] == 0:
        return delta.new_tensor(torch.nan)
    return ((left.mT @ delta).norm() / delta.norm()).clamp(max=1)


def _where(place: Place, blocks: Sequence[float]) -> dict[str, Any]:
    return {
        "kind": place.stack or place.key,
        "block": blocks.index(place.depth) if place.stack else None,
        "shape": list(place.shape),
    }


def _mean(metrics: Iterable[Metrics]) -> Metrics:
    """Means over matrices, leaving out what is not defined."""
    parts = list(metrics)
    return {name: torch.stack([part[name] for part in parts]).nanmean(0) for name in parts[0]}


def _plain(metrics: Mapping[str, Tensor]) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(entry) for entry in value]
        return None if math.isnan(value) else value

    return {name: plain(tensor.tolist()) for name, tensor in metrics.items()}
