"""Methods that minimise the interference between tasks by descent."""

import math

import torch
from torch import Tensor

from mergeloom.merging.method import merger


@merger(
    "wudi",
    arxiv="2503.08099",
    alpha=1.0,
    on="matrices",
    limits={"iterations": "[0, inf)", "learning_rate": "(0, inf)"},
)
def wudi(deltas: Tensor, *, iterations: int = 300, learning_rate: float = 1e-5) -> Tensor:
    """WUDI: what differs from a task vector shall not act on what the task's layer sees.

    Minimises Σ_t ‖(M − Δ_t) Δ_tᵀ‖²_F / ‖Δ_t‖²_F over M by Adam (β = 0.9, 0.999, ε = 1e-8) from
    M = Σ_t Δ_t on: the rows of Δ_t stand for the inputs of task t. Task vectors of zero see
    nothing, and are left out of the sum. 300 iterations are the paper's; FusionBench's preset has
    400. The steps are made for task vectors of CLIP: larger ones need a larger `learning_rate`.

    With S = Σ_t Δ_tᵀ Δ_t / ‖Δ_t‖² the gradient at M = Σ_t Δ_t + E is 2 (G + E S), where G, the
    gradient at the start, is computed once: an iteration costs one product, whatever T is.

    Parameters
    ----------
    deltas : Tensor [T, m, n], float32 – task vectors of one matrix.
    iterations : int, at least 0.
    learning_rate : float, above 0.

    Returns
    -------
    Tensor [m, n], float32.
    """
    start = deltas.sum(dim=0)
    curvature = deltas.new_zeros(start.shape[1], start.shape[1])
    slope = torch.zeros_like(start)
    for delta in deltas:
        square = float(torch.linalg.vector_norm(delta, dtype=torch.float64)) ** 2
        if square > 0:
            seen = delta.T @ delta * (2 / square)
            curvature += seen
            slope.addmm_(start - delta, seen)
    return start + _adam(slope, curvature, iterations, learning_rate)


def _adam(slope: Tensor, curvature: Tensor, iterations: int, rate: float) -> Tensor:
    """Minimise ⟨E, G⟩ + ⟨E, E S⟩ / 2 from E = 0 on.

    Parameters
    ----------
    slope : Tensor [m, n] – G.
    curvature : Tensor [n, n] – S, symmetric.
    """
    change, first, second = (torch.zeros_like(slope) for _ in range(3))
    gradient = torch.empty_like(slope)
    for step in range(1, iterations + 1):
        torch.addmm(slope, change, curvature, out=gradient)
        first.lerp_(gradient, 0.1)
        second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        # The bias of the second moment is taken out of its root.
        scale = torch.sqrt(second, out=gradient).div_(math.sqrt(1 - 0.999**step)).add_(1e-8)
        change.addcdiv_(first, scale, value=-rate / (1 - 0.9**step))
    return change
