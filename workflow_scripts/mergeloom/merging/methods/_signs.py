"""Sign consensus: elect a sign for every element, and merge the values that have it."""

import torch
from torch import Tensor


def total(values: Tensor) -> Tensor:
    """The sum over tasks [*shape], float64: the order of tasks decides no close election."""
    return values.sum(dim=0, dtype=torch.float64)


def elect(values: Tensor, draw: float = 1.0) -> Tensor:
    """The signs of the sums over tasks, ±1 [*shape], float32.

    Parameters
    ----------
    values : Tensor [T, *shape], float32.
    draw : ±1, the sign where the sum is zero.
    """
    signs = total(values).sign_().to(torch.float32)
    return signs.mul_(2).add_(draw).sign_()


def merge_elected(values: Tensor, signs: Tensor, mean: bool = True) -> Tensor:
    """The mean over tasks, or the sum, of the values that have the elected sign [*shape], float32.

    Parameters
    ----------
    values : Tensor [T, *shape], float32, is overwritten. Zeros count for no mean.
    signs : Tensor [*shape], ±1.
    """
    # Multiplied by the elected sign an agreeing value is positive: no mask is needed.
    agreeing = values.mul_(signs).relu_()
    merged = agreeing.sum(dim=0).mul_(signs)
    if mean:
        merged.div_(agreeing.sign_().sum(dim=0).clamp_(min=1))
    return merged
