"""Methods that weigh whole task vectors."""

import torch
from torch import Tensor

from mergeloom.merging.method import merger


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


@merger("task_arithmetic", arxiv="2212.04089", alpha=0.3, grain="element")
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
