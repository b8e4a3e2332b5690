"""PCB merging: parameters compete within and between task vectors."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mergeloom.merging.group import Group, Survey
from mergeloom.merging.method import merger
from mergeloom.merging.methods._ranks import of_model
from mergeloom.merging.methods._signs import total

_TAIL = 1e-4  # share of the magnitudes that is clamped at either end, as in the paper's code

Range = tuple[float, float]


@dataclass(frozen=True)
class Ranges:
    """What PCB merging knows of the whole model, task by task.

    magnitudes : low and high quantile of |Δ_t|.
    scores : the score from which on values are kept, and the highest score.
    """

    magnitudes: Sequence[Range]
    scores: Sequence[Range]


def survey_pcb(survey: Survey, *, density: float) -> Ranges:
    """Find the quantiles of the magnitudes, then those of the scores, which depend on them."""

    def tails(size: int) -> list[int]:
        low, high = int(size * _TAIL), max(int(size * (1 - _TAIL) - 1), 0)
        return [size - low, size - high]

    def kept(size: int) -> list[int]:
        return [size - min(int(size * (1 - density)), size - 1), 1]

    def scores(group: Group) -> Tensor:
        summed = total(group.deltas).to(torch.float32)
        rows = zip(group.deltas, magnitudes, strict=True)
        return torch.stack([_compete(d, summed, m, survey.tasks)[1] for d, m in rows])

    found = of_model(survey, tails, lambda group: group.deltas)
    magnitudes = [(low, high) for low, high in found]
    return Ranges(
        magnitudes, [(low, high) for low, high in of_model(survey, kept, scores, signed=True)]
    )


@merger(
    "pcb",
    arxiv="2410.02396",
    alpha=1.0,
    grain="element",
    survey=survey_pcb,
    limits={"density": "(0, 1]"},
)
def pcb(deltas: Tensor, statistics: Ranges, *, density: float = 0.1) -> Tensor:
    """PCB merging: weigh values by strength in their task and agreement between tasks.

    With a_t = |Δ_t| clamped at its 0.0001 and 0.9999 quantiles and N(x) = (x - min) / (max - min),
    the scores are s_t = exp(T · N(a_t)²) · tanh(Δ_t · Σ_j Δ_j). The highest ones, a share `density`
    of each task vector, are kept: w_t = N(max(s_t, lowest kept)), and
    Δ = Σ_t w_t sgn(Δ_t) a_t / Σ_t w_t, zero where no task has a weight. Quantiles, ranks and N are
    of the whole task vector, as in the paper's code; N of what is the same everywhere is 0.

    Deviation: the paper's code takes Σ_t w_t for at least 1e-12, which shrinks what has less.

    Parameters
    ----------
    deltas : Tensor [T, *shape], float32 – task vectors of one parameter.
    statistics : Ranges – quantiles of magnitudes and scores of each task.
    density : share of each task vector that is kept, above 0 and at most 1.

    Returns
    -------
    Tensor [*shape], float32.
    """
    summed = total(deltas).to(torch.float32)
    merged, weights = torch.zeros_like(summed), torch.zeros_like(summed)
    rows = zip(deltas, statistics.magnitudes, statistics.scores, strict=True)
    for delta, magnitudes, scores in rows:
        magnitude, score = _compete(delta, summed, magnitudes, len(deltas))
        weight = _normalised(score, scores)
        weights += weight
        merged.add_(weight.mul_(magnitude).mul_(delta.sign()))
    # Where there is no weight, there is nothing to weigh.
    return merged.div_(weights.clamp_(min=torch.finfo().tiny))


def _compete(delta: Tensor, summed: Tensor, magnitudes: Range, tasks: int) -> tuple[Tensor, Tensor]:
    """Clamped magnitudes and scores of one task [*shape]."""
    magnitude = delta.abs().clamp_(*magnitudes)
    # Only ratios of scores count: less by e^(T / 2), those of many tasks stay in float32's range.
    score = _normalised(magnitude, magnitudes).square_().sub_(0.5).mul_(tasks).exp_()
    return magnitude, score.mul_((delta * summed).tanh_())


def _normalised(values: Tensor, limits: Range) -> Tensor:
    """Values from the lower limit on, scaled so that the upper one is 1; zero if they are one."""
    low, high = limits
    if high <= low:
        return torch.zeros_like(values)
    return values.sub(low).clamp_(min=0).div_(high - low)
