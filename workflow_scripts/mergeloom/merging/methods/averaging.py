"""Methods that weigh whole task vectors."""

import torch
from torch import Tensor

from mergeloom.merging.method import merger


@merger("zeroshot", alpha=0.0)
def zeroshot(deltas: Tensor) -> Tensor:
    """The base model itself: Δ = 0.

    Parameters
    ----------
    deltas : Tensor [T, *shape], float32 – task vectors of one parameter.

    Returns
    -------
    Tensor [*shape], float32.
    """
    return torch.zeros_like(deltas[0])


@merger("weight_average", arxiv="2203.05482", alpha=1.0)
def weight_average(deltas: Tensor) -> Tensor:
    """Average of the fine-tuned models: Δ = 1/T Σ_t Δ_t (uniform model soup).

    Parameters
    ----------
    deltas : Tensor [T, *shape], float32 – task vectors of one parameter.

    Returns
    -------
    Tensor [*shape], float32.
    """
    return deltas.mean(dim=0)


@merger("task_arithmetic", arxiv="2212.04089", alpha=0.3)
def task_arithmetic(deltas: Tensor) -> Tensor:
    """Task arithmetic: Δ = Σ_t Δ_t, scaled by alpha, 0.3 unless it is searched.

    Parameters
    ----------
    deltas : Tensor [T, *shape], float32 – task vectors of one parameter.

    Returns
    -------
    Tensor [*shape], float32.
    """
    return deltas.sum(dim=0)
