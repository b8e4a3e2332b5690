"""Learning rates after warming up."""

import math

from mergeloom.training.recipe import Span
from mergeloom.training.registry import schedule


@schedule("cosine")
def cosine(peak: float, step: int, span: Span) -> float:
    """Half a cosine over the steps after warming up, from the peak to zero (arXiv 1608.03983)."""
    progress = (step - span.warmup_steps) / max(1, span.total - span.warmup_steps)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))


@schedule("constant")
def constant(peak: float, step: int, span: Span) -> float:
    """The peak throughout."""
    return peak


@schedule("cosine_by_epoch")
def cosine_by_epoch(
    peak: float, step: int, span: Span, *, annealing_epochs: float | None = None
) -> float:
    """A cosine that moves once an epoch, as torch's CosineAnnealingLR does.

    annealing_epochs : epochs from the peak to zero, torch's `T_max`; None is those of the run. In
        a run of more epochs the rate rises to the peak again, and so on: a public study trained its
        experts of up to 147 epochs with 10 here.
    """
    epochs = annealing_epochs or span.total / span.per_epoch
    return peak * 0.5 * (1 + math.cos(math.pi * (step // span.per_epoch) / epochs))
