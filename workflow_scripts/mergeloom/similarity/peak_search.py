"""The search of a learning rate and a weight decay: all candidates of a round at once.

After the public code of CLIP's linear probes (arXiv 2103.00020, appendix A.3), as the study of
consistent similarities (arXiv 2411.05561) has it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

# 64 weight decays from 1e-6 to 10, nine to a decade.
WEIGHT_DECAYS: Final = tuple(np.logspace(-6, 1, 64).tolist())
DECADE: Final = 9
STEPS: Final = (4, 2, 1)


class Candidate(NamedTuple):
    """What a probe is trained with; the learning rate is None where the solver has none."""

    learning_rate: float | None
    weight_decay: float


@dataclass(frozen=True)
class Choice:
    """The candidate that a search ends at.

    accuracy : of it, on validation data, a fraction of 1.
    tried : every candidate that was trained and its accuracy, in the order of the rounds.
    """

    candidate: Candidate
    accuracy: float
    tried: dict[Candidate, float]


def search_peak(
    accuracies: Callable[[list[Candidate]], Sequence[float]],
    learning_rates: Sequence[float | None],
) -> Choice:
    """Search the best weight decay for each learning rate, and the best of these.

    Of the grid of weight decays the eight decades come first. Then the better of the peak's
    neighbours at 4, at 2 and at 1 steps of the grid takes its place if it is strictly better.
    Among decades, and among neighbours, the larger of two equal ones is better. Of the learning
    rates' peaks the first best is chosen; the study goes from the largest down.

    No candidate depends on another of its round, nor one learning rate on another: a round has all
    of them, 32 and three times at most 8 for four learning rates. What was tried once is not tried
    again.

    Parameters
    ----------
    accuracies : trains candidates, all different, and returns a validation accuracy for each.
    learning_rates : each at most once.
    """
    tried: dict[Candidate, float] = {}

    def try_all(asked: list[Candidate]) -> None:
        if new := [candidate for candidate in asked if candidate not in tried]:
            tried.update(zip(new, accuracies(new), strict=True))

    def of(rate: float | None, place: int) -> Candidate:
        return Candidate(rate, WEIGHT_DECAYS[place])

    def best(rate: float | None, places: Sequence[int]) -> int:
        return max(places, key=lambda place: (tried[of(rate, place)], place))

    decades = range(0, len(WEIGHT_DECAYS), DECADE)
    try_all([of(rate, place) for rate in learning_rates for place in decades])
    peaks = {rate: best(rate, decades) for rate in learning_rates}
    for step in STEPS:
        sides = {
            rate: [p for p in (peak - step, peak + step) if 0 <= p < len(WEIGHT_DECAYS)]
            for rate, peak in peaks.items()
        }
        try_all([of(rate, place) for rate, places in sides.items() for place in places])
        for rate, places in sides.items():
            side = best(rate, places)
            if tried[of(rate, side)] > tried[of(rate, peaks[rate])]:
                peaks[rate] = side
    ends = [of(rate, peak) for rate, peak in peaks.items()]
    chosen = max(ends, key=tried.__getitem__)  # the first of equal ones
    return Choice(chosen, tried[chosen], tried)
