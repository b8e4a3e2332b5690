"""Methods that drop values of each task vector by their magnitude."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from mergeloom.errors import MergeloomError
from mergeloom.merging.group import Survey
from mergeloom.merging.method import merger
from mergeloom.merging.methods._ranks import Cuts, keep_from, magnitudes
from mergeloom.merging.methods._signs import elect, merge_elected
from mergeloom.merging.randomness import Random
from mergeloom.models.naming import Place

_RUN = 1 << 16  # values pruned at a time: they and their ranks stay in a core's cache


def survey_breadcrumbs(survey: Survey, *, density: float, gamma: float, scope: str) -> Cuts:
    """Find the largest and the smallest magnitude that is kept."""

    def ranks(size: int) -> Sequence[int]:
        kept = max(1, int(density * size))
        above = min(int(gamma * size), size - kept)
        return above + 1, above + kept

    return magnitudes(survey, ranks, scope)


@merger(
    "breadcrumbs",
    arxiv="2312.06795",
    alpha=0.3,
    grain="element",
    survey=survey_breadcrumbs,
    limits={"density": "(0, 1]", "gamma": "[0, 1)", "scope": ("tensor", "model")},
)
def breadcrumbs(
    deltas: Tensor,
    place: Place,
    statistics: Cuts,
    *,
    density: float = 0.9,
    gamma: float = 0.01,
    scope: str = "tensor",
) -> Tensor:
    """Model breadcrumbs: drop the largest and the smallest values of each task vector, and sum.

    Of n magnitudes the ⌊gamma · n⌋ largest are dropped, the next ⌊density · n⌋ (at least one) are
    kept, and so are those equal to the first or the last of these. If gamma + density is above 1,
    fewer large ones are dropped. Δ = Σ_t of what is kept. Densities are mergekit's: the paper's
    share of smallest ones, β, is 1 - density - gamma.

    Parameters
    ----------
    deltas : Tensor [T, *shape], float32 – task vectors of one parameter.
    place : Place – names the parameter.
    statistics : by parameter and task, the largest and the smallest magnitude that is kept.
    density : share that is kept, above 0 and at most 1.
    gamma : share of the largest that is dropped, at least 0 and below 1.
    scope : "tensor", shares of each parameter, or "model", of the whole task vector.

    Returns
    -------
    Tensor [*shape], float32.
    """
    merged = torch.zeros_like(deltas[0])
    for delta, (most, least) in zip(deltas, statistics[place.key], strict=True):
        merged += keep_from(delta, least).sub_(torch.hardshrink(delta, most))
    return merged


@merger("della", arxiv="2406.11617", alpha=1.0, limits={"density": "(0, 1]", "epsilon": "[0, 0.5]"})
def della(deltas: Tensor, random: Random, *, density: float = 0.5, epsilon: float = 0.15) -> Tensor:
    """DELLA: drop small values of a row more often, rescale, elect signs, average what agrees.

    A value of rank r = 0 … n - 1 by magnitude in its row of n is kept with probability
    density - epsilon + 2 · epsilon · r / (n - 1); of equal magnitudes each has the highest rank of
    them, and a row of one value has the probability `density`. Then γ = sgn(Σ_t Δ̂_t), + where the
    sum is zero, and Δ is the mean over the tasks with Δ̂_t γ > 0.

    A row is all weights of one output: of a convolution [out, in, h, w] those are in · h · w. A
    vector is one row.

    Deviation: what is kept of a task's tensor is scaled to the L1 norm that the tensor had, as
    mergekit does. The paper divides each value by its probability.

    Parameters
    ----------
    deltas : Tensor [T, *shape], float32 – task vectors of one parameter.
    random : Random – belongs to seed, task vector and element.
    density : share of the values that is kept in the mean, above 0 and at most 1.
    epsilon : how far the probability of the largest is above that, and of the smallest below,
        0 to 0.5.

    Returns
    -------
    Tensor [*shape], float32.

    Raises
    ------
    MergeloomError
        If density - epsilon is below 0, or density + epsilon above 1.
    """
    if density < epsilon or density + epsilon > 1:
        raise MergeloomError(
            f"The merge method della keeps values with probabilities of density ± epsilon, here "
            f"{density - epsilon:g} to {density + epsilon:g}. Choose an epsilon of at most "
            f"{min(density, 1 - density):g}, or another density."
        )
    rows = deltas.shape[1] if deltas.dim() > 2 else 1
    kept = random.uniform().view_as(deltas)
    for delta, out in zip(deltas, kept, strict=True):
        _prune(delta.reshape(rows, -1), out.view(rows, -1), density, epsilon)
        before, after = (torch.linalg.vector_norm(x, 1, dtype=torch.float64) for x in (delta, out))
        out.mul_(torch.where(after > 0, before / after, 1.0))
    return merge_elected(kept, elect(kept))


def _prune(delta: Tensor, numbers: Tensor, density: float, epsilon: float) -> None:
    """Overwrite the random numbers [rows, n] by what is kept of the values."""
    count = delta.shape[1]
    step = max(1, _RUN // count)
    for values, kept in zip(delta.split(step), numbers.split(step), strict=True):
        if count == 1 or epsilon == 0:
            kept.lt_(density).mul_(values)
            continue
        size = values.abs()
        # What has at least this rank is kept: n, past the last one, has no magnitude.
        rank = kept.sub(density - epsilon).mul_((count - 1) / (2 * epsilon)).floor_().add_(1)
        index = rank.to(torch.int64).clamp_(0, count)
        least = pad(_sorted(size), (0, 1), value=torch.inf).gather(1, index)
        torch.mul(values, size.ge_(least), out=kept)


def _sorted(rows: Tensor) -> Tensor:
    if rows.is_cuda:
        return rows.sort(dim=1).values
    # Torch would sort an index along with every value.
    return torch.from_numpy(np.sort(rows.numpy(), axis=1))
