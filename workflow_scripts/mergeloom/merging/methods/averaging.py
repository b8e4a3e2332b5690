"""Methods that weigh whole task vectors, or whole tensors of them."""

import math

import torch
from torch import Tensor

from mergeloom.errors import MergeloomError
from mergeloom.merging.method import merger

_RUN = 2**18  # elements that are turned to float64 at a time


@merger("zeroshot", alpha=0.0, grain="element")
def zeroshot(total: Tensor) -> Tensor:
    """The base model itself: Δ = 0.

    Parameters
    ----------
    total : Tensor [*shape], float32 – sum of the task vectors of one parameter.

    Returns
    -------
    Tensor [*shape], float32.
    """
    return torch.zeros_like(total)


@merger("weight_average", arxiv="2203.05482", alpha=1.0, grain="element")
def weight_average(total: Tensor, tasks: int) -> Tensor:
    """Average of the fine-tuned models: Δ = 1/T Σ_t Δ_t (uniform model soup).

    Parameters
    ----------
    total : Tensor [*shape], float32 – sum of the task vectors of one parameter.

    Returns
    -------
    Tensor [*shape], float32.
    """
    return total / tasks


@merger("task_arithmetic", arxiv="2212.04089", alpha=0.3, grain="element", sums=True)
def task_arithmetic(total: Tensor) -> Tensor:
    """Task arithmetic: Δ = Σ_t Δ_t, scaled by alpha, 0.3 unless it is searched.

    Parameters
    ----------
    total : Tensor [*shape], float32 – sum of the task vectors of one parameter.

    Returns
    -------
    Tensor [*shape], float32.
    """
    return total


@merger("slerp", alpha=1.0, limits={"t": "[0, 1]"})
def slerp(deltas: Tensor, base: Tensor, *, t: float = 0.5) -> Tensor:
    """Spherical interpolation of two models, tensor by tensor.

    With Ω the angle between the weights θ_1 = θ_0 + Δ_1 and θ_2 of a tensor,
    Δ = sin((1 − t) Ω) / sin Ω · θ_1 + sin(t Ω) / sin Ω · θ_2 − θ_0. Where |cos Ω| > 0.9995, as of
    two models fine-tuned from one it mostly is, and where a tensor is zero, it is the straight
    (1 − t) Δ_1 + t Δ_2.

    Parameters
    ----------
    deltas : Tensor [2, *shape], float32 – task vectors of one parameter.
    base : Tensor [*shape], float32 – the parameter before fine-tuning.
    t : float, 0 to 1 – from the first model to the second.

    Returns
    -------
    Tensor [*shape], float32.

    Raises
    ------
    MergeloomError
        If there are not two models.
    """
    if len(deltas) != 2:
        raise MergeloomError(
            f"slerp interpolates between two models, but {len(deltas)} were given. Give two, or "
            "take karcher, which is the same for any number."
        )
    gram = _gram(deltas.reshape(2, 1, -1), base.reshape(1, -1))[0]
    norms = gram.diagonal().sqrt()
    cosine = float(gram[0, 1] / norms.prod().clamp_min(torch.finfo(gram.dtype).tiny))
    first, second = 1 - t, t
    if float(norms.min()) > 0 and abs(cosine) <= 0.9995:
        angle = math.acos(cosine)
        first, second = (math.sin(part * angle) / math.sin(angle) for part in (first, second))
    # Only what the coefficients exceed 1 by is left of the base: it is not added and taken away.
    merged = (first + second - 1) * base
    return merged.add_(deltas[0], alpha=first).add_(deltas[1], alpha=second)


@merger("karcher", alpha=1.0, limits={"max_iterations": "[1, inf)", "tolerance": "[0, inf)"})
def karcher(
    deltas: Tensor, base: Tensor, *, max_iterations: int = 10, tolerance: float = 1e-5
) -> Tensor:
    """Karcher mean of the models' directions, tensor by tensor.

    With the weights of a tensor θ_t = θ_0 + Δ_t, the point on the unit sphere whose squared angles
    to all θ_t / ‖θ_t‖ have the smallest sum, times the mean of the ‖θ_t‖. It is found by following
    the mean of the directions to all of them (gradient descent on the sphere), from the
    normalised sum on. Tensors of zero have no direction and do not count.

    All points on the way are weighted sums of the θ_t, so that after one pass for their Gram matrix
    [T, T], in float64, an iteration costs T² operations.

    Parameters
    ----------
    deltas : Tensor [T, *shape], float32 – task vectors of one parameter.
    base : Tensor [*shape], float32 – the parameter before fine-tuning.
    max_iterations : int, at least 1.
    tolerance : float – norm of the mean direction at which it ends.

    Returns
    -------
    Tensor [*shape], float32.
    """
    gram = _gram(deltas.reshape(len(deltas), 1, -1), base.reshape(1, -1))[0].cpu()
    norms = gram.diagonal().sqrt()
    there = norms > 0
    weights = torch.zeros_like(norms)
    if there.any():
        length = norms[there]
        cosines = gram[there][:, there] / torch.outer(length, length)
        weights[there] = _mean_direction(cosines, max_iterations, tolerance)
        weights[there] *= length.mean() / length
    merged = (float(weights.sum()) - 1) * base
    for delta, weight in zip(deltas, weights.tolist(), strict=True):
        merged.add_(delta, alpha=weight)
    return merged


def _mean_direction(cosines: Tensor, max_iterations: int, tolerance: float) -> Tensor:
    """Coefficients [T] of the Karcher mean of unit vectors in terms of these vectors."""

    def norm(coefficients: Tensor) -> Tensor:
        return (coefficients @ cosines @ coefficients).clamp_min(0).sqrt()

    tasks = len(cosines)
    mean = torch.full((tasks,), 1 / tasks, dtype=cosines.dtype)
    if norm(mean) <= 1e-4:  # they point to all sides: any start is as good
        mean = torch.eye(tasks, dtype=cosines.dtype)[0]
    mean = mean / norm(mean)
    for _ in range(max_iterations):
        cosine = (cosines @ mean).clamp(-1, 1)
        angle = cosine.acos()
        sine = angle.sin()
        # The direction from the mean m to u is θ / sin θ · (u − cos θ · m), of length θ; there is
        # none to the opposite point.
        stretch = torch.where(sine > 1e-6, angle / sine, (cosine > 0).to(angle.dtype)) / tasks
        step = stretch - (stretch @ cosine) * mean
        length = norm(step)
        if length <= tolerance:
            break
        mean = length.cos() * mean + length.sin() / length * step
        mean = mean / norm(mean)
    return mean


@merger("model_stock", arxiv="2403.19522", alpha=1.0)
def model_stock(deltas: Tensor, *, filter_wise: bool = False) -> Tensor:
    """Model stock: the average, drawn towards the base by the angle between the task vectors.

    With c the mean cosine over all pairs of task vectors of a tensor,
    Δ = T c / (1 + (T − 1) c) · 1/T Σ_t Δ_t.

    The paper has two models or one common angle; the mean over pairs is mergekit's reading of it.
    Deviation: a mean cosine below 0, for which the ratio leaves [0, 1] and has a pole, counts as 0.

    Parameters
    ----------
    deltas : Tensor [T, *shape], float32 – task vectors of one parameter. One alone is kept.
    filter_wise : bool – a cosine and a ratio for each row (output) of a tensor. Tensors of one
        dimension are one row.

    Returns
    -------
    Tensor [*shape], float32.
    """
    tasks, *shape = deltas.shape
    if tasks == 1:
        return deltas[0]
    rows = shape[0] if filter_wise and len(shape) > 1 else 1
    gram = _gram(deltas.reshape(tasks, rows, -1))
    norms = gram.diagonal(dim1=-2, dim2=-1).sqrt()
    cosines = gram / (norms.unsqueeze(-1) * norms.unsqueeze(-2)).clamp_min(
        torch.finfo(gram.dtype).tiny
    )
    diagonal = cosines.diagonal(dim1=-2, dim2=-1).sum(-1)
    mean = (cosines.sum((-2, -1)) - diagonal).clamp_min(0) / (tasks * (tasks - 1))
    ratio = tasks * mean / (1 + (tasks - 1) * mean)
    average = deltas.mean(dim=0).reshape(rows, -1)
    return (average * ratio.to(average.dtype).unsqueeze(-1)).reshape(shape)


def _gram(deltas: Tensor, base: Tensor | None = None) -> Tensor:
    """Inner products of T vectors, float64 [rows, T, T].

    Parameters
    ----------
    deltas : Tensor [T, rows, n], float32.
    base : Tensor [rows, n], float32 – is added to each.
    """
    tasks, rows, columns = deltas.shape
    gram = torch.zeros(rows, tasks, tasks, dtype=torch.float64, device=deltas.device)
    step = max(_RUN // (tasks * rows), 1)
    for start in range(0, columns, step):
        part = deltas[..., start : start + step].to(torch.float64)
        if base is not None:
            part += base[..., start : start + step]
        part = part.transpose(0, 1)
        gram += part @ part.mT
    return gram
