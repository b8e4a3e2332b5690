"""Methods that select elements, or the task to take each element from."""

import torch
from torch import Tensor

from mergeloom.merging.method import merger
from mergeloom.merging.methods._ranks import largest
from mergeloom.merging.methods._signs import elect

_RUN = 1 << 16  # elements of each task whose float64 copies stay in a core's cache


@merger("sce", arxiv="2408.07990", alpha=1.0, limits={"select": "(0, 1]"})
def sce(deltas: Tensor, *, select: float = 0.1) -> Tensor:
    """SCE: select the elements that differ most, weigh tasks by mean squares, erase minorities.

    Selected are the elements whose variance over tasks is at least the ⌊select · n⌋-th largest (or
    the largest) of the tensor's n; the others are zero. With Δ̂_t what is selected, the weights are
    w_t ∝ mean(Δ̂_t²), γ = sgn(Σ_t Δ̂_t), + where the sum is zero, and
    Δ = Σ_t w_t a_t Δ̂_t / Σ_t w_t a_t with a_t = 1 where Δ̂_t γ > 0.

    Deviations from mergekit: the share is of all elements and not of those whose variance is not
    zero, so that one task alone is itself; and the weights are equal only if all Δ̂_t are zero, and
    not wherever Σ_t mean(Δ̂_t²) < 1e-6, which is so of most fine-tuned models.

    Parameters
    ----------
    deltas : Tensor [T, *shape], float32 – task vectors of one parameter.
    select : share of the elements that is selected, above 0 and at most 1.

    Returns
    -------
    Tensor [*shape], float32.
    """
    flat = deltas.reshape(len(deltas), -1)
    variance = _variance(flat)
    (least,) = largest([variance], [max(1, int(select * len(variance)))])
    selected = (variance >= least).nonzero().squeeze(1)
    values = flat.index_select(1, selected)
    squares = torch.linalg.vector_norm(values, dim=1, dtype=torch.float64).square_()
    # Weights count by their ratios: the largest is 1, so that none is lost in float32.
    weights = squares.div_(squares.max().clamp_(min=torch.finfo().tiny)).to(torch.float32)
    signs = elect(values)
    agreeing = values.mul_(signs).relu_()
    chosen = weights @ agreeing
    chosen.div_((weights @ agreeing.sign_()).clamp_(min=torch.finfo().tiny)).mul_(signs)
    merged = torch.zeros_like(variance)
    merged[selected] = chosen
    return merged.view(deltas.shape[1:])


def _variance(deltas: Tensor) -> Tensor:
    """The variance over tasks [n], computed in float64, so that no rank depends on rounding."""
    variance = torch.empty_like(deltas[0])
    for run, out in zip(deltas.split(_RUN, dim=1), variance.split(_RUN), strict=True):
        values = run.to(torch.float64)
        out.copy_(values.sub_(values.mean(dim=0)).square_().mean(dim=0))
    return variance


@merger("magmax", arxiv="2407.06322", alpha=0.5, grain="element")
def magmax(deltas: Tensor) -> Tensor:
    """MagMax: of each element, the value of the task that has the largest magnitude.

    Δ = Δ_t* with t* = argmax_t |Δ_t|, element by element.

    Deviation: of two values of the same magnitude the positive one is taken, whatever the order of
    tasks. In FusionBench the later task's is.

    Parameters
    ----------
    deltas : Tensor [T, *shape], float32 – task vectors of one parameter.

    Returns
    -------
    Tensor [*shape], float32.
    """
    high, low = deltas.amax(dim=0), deltas.amin(dim=0)
    return torch.where(high >= -low, high, low)
