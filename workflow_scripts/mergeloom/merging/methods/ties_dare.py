"""TIES, which trims task vectors and elects signs, and DARE, which drops values at random."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mergeloom.merging.group import Group, Survey
from mergeloom.merging.method import merger
from mergeloom.merging.methods._ranks import Cuts, Ranks, keep_from, magnitudes, of_model
from mergeloom.merging.methods._signs import elect, merge_elected, total
from mergeloom.merging.randomness import Random
from mergeloom.models.naming import Place


@dataclass(frozen=True)
class Trimming:
    """What TIES knows of the whole model.

    cuts : by parameter and task, the smallest magnitude that is kept.
    majority : ±1, the sign of elements whose kept values sum to zero.
    """

    cuts: Cuts
    majority: float


def survey_ties(survey: Survey, *, density: float, scope: str) -> Trimming:
    """Find the cuts, then the majority of the elected signs."""
    cuts = magnitudes(survey, _ranks(density), scope)
    return _elect_majority(survey, cuts, lambda group: group.deltas)


@merger(
    "ties",
    arxiv="2306.01708",
    alpha=1.0,
    grain="element",
    survey=survey_ties,
    limits={"density": "(0, 1]", "scope": ("model", "tensor"), "merge": ("mean", "sum")},
)
def ties(
    deltas: Tensor,
    place: Place,
    statistics: Trimming,
    *,
    density: float = 0.2,
    scope: str = "model",
    merge: str = "mean",
) -> Tensor:
    """TIES: trim each task vector to its largest values, elect signs, average what agrees.

    Of n elements Δ̂_t keeps those of at least the (⌊density · n⌋ + 1)-th largest magnitude of Δ_t,
    as the paper's code does; γ = sgn(Σ_t Δ̂_t); Δ is the mean, or the sum, over the tasks with
    Δ̂_t γ > 0. Where Σ_t Δ̂_t = 0, γ is the sign that most other elements of the model have (- if
    as many have either), as in the paper's code.

    Deviation: the sums that elect signs are in float64, so that the order of tasks decides nothing.

    Parameters
    ----------
    deltas : Tensor [T, *shape], float32 – task vectors of one parameter.
    place : Place – names the parameter.
    statistics : Trimming – the cuts, and the majority of signs.
    density : share of each task vector that is kept, above 0 and at most 1.
    scope : "model", the largest values of the whole task vector, or "tensor", of each parameter.
    merge : "mean" or "sum" of the agreeing values; the paper's is the mean.

    Returns
    -------
    Tensor [*shape], float32.
    """
    return _ties(deltas, place, statistics, merge)


@merger(
    "ties_vectors",
    arxiv="2310.02575",
    alpha=1.0,
    grain="element",
    per_task=True,
    survey=survey_ties,
    limits={"density": "(0, 1]", "scope": ("model", "tensor")},
)
def ties_vectors(
    deltas: Tensor,
    place: Place,
    statistics: Trimming,
    *,
    density: float = 0.2,
    scope: str = "model",
) -> Tensor:
    """TIES without its last step: each task vector, trimmed, where its sign is the elected one.

    Δ̂_t ⊙ [Δ̂_t γ > 0] with Δ̂ and γ of `ties`: what AdaMerging++ finds coefficients of.

    Parameters
    ----------
    deltas : Tensor [T, *shape], float32 – task vectors of one parameter.
    place : Place – names the parameter.
    statistics : Trimming – the cuts, and the majority of signs.
    density : share of each task vector that is kept, above 0 and at most 1.
    scope : "model", the largest values of the whole task vector, or "tensor", of each parameter.

    Returns
    -------
    Tensor [T, *shape], float32.
    """
    kept = _trimmed(deltas, statistics.cuts, place.key)
    signs = elect(kept, statistics.majority)
    return kept.mul_(signs).relu_().mul_(signs)


@merger("dare_average", arxiv="2311.03099", alpha=1.0, grain="element", limits={"drop": "[0, 1)"})
def dare_average(deltas: Tensor, random: Random, *, drop: float = 0.5) -> Tensor:
    """DARE, averaged: drop values at random, rescale the others, and take the mean over tasks.

    Each value is dropped with probability p = `drop`: Δ = 1/T Σ_t m_t ⊙ Δ_t / (1 - p) with
    m_t ~ Bernoulli(1 - p).

    Parameters
    ----------
    deltas : Tensor [T, *shape], float32 – task vectors of one parameter.
    random : Random – belongs to seed, task vector and element.
    drop : probability of dropping a value, at least 0 and below 1.

    Returns
    -------
    Tensor [*shape], float32.
    """
    return _dropped(deltas, random, drop).sum(dim=0).div_(len(deltas) * (1 - drop))


@merger("dare_ta", arxiv="2311.03099", alpha=0.3, grain="element", limits={"drop": "[0, 1)"})
def dare_ta(deltas: Tensor, random: Random, *, drop: float = 0.5) -> Tensor:
    """DARE with task arithmetic: drop values at random, rescale the others, and sum over tasks.

    Each value is dropped with probability p = `drop`: Δ = Σ_t m_t ⊙ Δ_t / (1 - p) with
    m_t ~ Bernoulli(1 - p).

    Parameters
    ----------
    deltas : Tensor [T, *shape], float32 – task vectors of one parameter.
    random : Random – belongs to seed, task vector and element.
    drop : probability of dropping a value, at least 0 and below 1.

    Returns
    -------
    Tensor [*shape], float32.
    """
    return _dropped(deltas, random, drop).sum(dim=0).div_(1 - drop)


def survey_dare_ties(survey: Survey, *, drop: float, density: float) -> Trimming:
    """The same as of TIES, of what is left after dropping."""

    def values(group: Group) -> Tensor:
        return _dropped(group.deltas, group.random, drop)

    cuts = dict.fromkeys(survey.places, of_model(survey, _ranks(density), values))
    return _elect_majority(survey, cuts, values)


@merger(
    "dare_ties",
    arxiv="2311.03099",
    alpha=1.0,
    grain="element",
    survey=survey_dare_ties,
    limits={"drop": "[0, 1)", "density": "(0, 1]", "merge": ("mean", "sum")},
)
def dare_ties(
    deltas: Tensor,
    random: Random,
    place: Place,
    statistics: Trimming,
    *,
    drop: float = 0.5,
    density: float = 0.2,
    merge: str = "mean",
) -> Tensor:
    """DARE with TIES: drop values at random, rescale the others, then trim, elect and average.

    Each value is dropped with probability p = `drop` and otherwise divided by 1 - p. TIES merges
    what is left, trimmed over the whole model; its density is a share of all elements, those
    dropped included.

    Parameters
    ----------
    deltas : Tensor [T, *shape], float32 – task vectors of one parameter.
    random : Random – belongs to seed, task vector and element.
    place : Place – names the parameter.
    statistics : Trimming – the cuts before rescaling, and the majority of signs.
    drop : probability of dropping a value, at least 0 and below 1.
    density : share of each task vector that TIES keeps, above 0 and at most 1.
    merge : "mean" or "sum" of the agreeing values.

    Returns
    -------
    Tensor [*shape], float32.
    """
    # The scale changes neither ranks nor signs, so it may come last.
    return _ties(_dropped(deltas, random, drop), place, statistics, merge).div_(1 - drop)


def _dropped(deltas: Tensor, random: Random, drop: float) -> Tensor:
    return random.uniform().view_as(deltas).ge_(drop).mul_(deltas)


def _ranks(density: float) -> Ranks:
    return lambda size: [min(int(density * size) + 1, size)]


def _ties(values: Tensor, place: Place, statistics: Trimming, merge: str) -> Tensor:
    kept = _trimmed(values, statistics.cuts, place.key)
    return merge_elected(kept, elect(kept, statistics.majority), merge == "mean")


def _trimmed(values: Tensor, cuts: Cuts, key: str) -> Tensor:
    kept = torch.empty_like(values)
    for value, (cut,), out in zip(values, cuts[key], kept, strict=True):
        keep_from(value, cut, out)
    return kept


def _elect_majority(survey: Survey, cuts: Cuts, values: Callable[[Group], Tensor]) -> Trimming:
    def votes(group: Group) -> float:
        kept = _trimmed(values(group), cuts, group.place.key)
        return float(total(kept).sign_().sum())

    return Trimming(cuts, 1.0 if sum(survey.each(votes)) > 0 else -1.0)
