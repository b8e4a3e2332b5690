"""Methods that weigh the experts by what training images say about them.

They are stated for weights, and here for task vectors: with θ_t = θ_0 + Δ_t both give
Σ_t C_t θ_t with Σ_t C_t = 1 (numbers, or matrices), which is θ_0 + Σ_t C_t Δ_t.
"""

import torch
from torch import Tensor

from mergeloom.linalg.regression import solve_semidefinite
from mergeloom.merging.grams import Gram
from mergeloom.merging.group import Group, Survey
from mergeloom.merging.method import merger
from mergeloom.merging.randomness import BLOCK


def scales(survey: Survey, *, normalize: bool, floor: float) -> Tensor:
    """Coefficients c_t [T], float64, of the Fisher information of each task."""
    if not normalize:
        return torch.full((survey.tasks,), 1 / survey.tasks, dtype=torch.float64)

    def squares_of(group: Group) -> list[Tensor]:
        # By blocks, of which runs are made: the order of summation does not depend on the runs.
        blocks = group.fisher.split(BLOCK, dim=1)
        return [block.double().square().sum(dim=1).cpu() for block in blocks]

    squares = torch.zeros(survey.tasks, dtype=torch.float64)
    for parts in survey.each(squares_of):
        for part in parts:
            squares += part
    inverse = 1 / (squares.sqrt() + floor)
    return inverse / inverse.sum()


@merger(
    "fisher",
    arxiv="2111.09832",
    alpha=1.0,
    grain="element",
    survey=scales,
    limits={"floor": "(0, inf)"},
)
def fisher_average(
    deltas: Tensor,
    fisher: Tensor,
    statistics: Tensor,
    *,
    normalize: bool = True,
    floor: float = 1e-6,
) -> Tensor:
    """Fisher merging: average each parameter by how sure each model is of it.

    Δ = Σ_t c_t (F_t + floor) Δ_t / Σ_t c_t (F_t + floor), with F_t the diagonal of the Fisher
    information of task t's model and c_t ∝ 1 / (‖F_t‖₂ + floor), the norm being that of the whole
    model. As in public code (FusionBench, after MergeLM), all tasks count alike otherwise.

    Parameters
    ----------
    deltas : Tensor [T, n], float32 – task vectors of elements of one parameter.
    fisher : Tensor [T, n], float32 – of the same elements.
    statistics : Tensor [T], float64 – the c_t.
    normalize : bool – False for equal c_t.
    floor : float – what no element has less of; where all tasks have next to none, Δ is the mean
        weighted by c_t.

    Returns
    -------
    Tensor [n], float32.
    """
    coefficients = statistics.to(fisher).view(-1, *[1] * (fisher.dim() - 1))
    weights = (fisher + floor).mul_(coefficients)
    total = weights.sum(dim=0)
    return weights.mul_(deltas).sum(dim=0).div_(total)


@merger("regmean", arxiv="2212.09849", alpha=1.0, limits={"off_diagonal": "[0, 1]"})
def regmean(deltas: Tensor, gram: Gram, *, off_diagonal: float = 0.95) -> Tensor:
    """RegMean: each linear map answers to all tasks' inputs as the task's own one does.

    W = (Σ_t G_t)⁻¹ Σ_t G_t W_t minimises Σ_t ‖X_t W − X_t W_t‖² / n_t, where the rows of X_t are
    what the map is fed in task t's model and G_t = X_tᵀ X_t / n_t. Entries of G_t off the diagonal
    are multiplied by `off_diagonal` first: 0.95 is public code's for CLIP (FusionBench), 1 the
    plain minimum. What is no linear map gets the mean.

    Computed as M + (Σ_t G_t)⁻¹ Σ_t G_t (Δ_t − M) with M the mean of the task vectors, in float64.
    Where Σ_t G_t is singular, which takes `off_diagonal` = 1 or an input that is always zero, that
    is the minimum closest to the mean, and the mean itself in directions that no input has.

    Parameters
    ----------
    deltas : Tensor [T, m, n], float32 – task vectors of one linear map.
    gram : Gram, [n, n] of each task, or [m, m] of a map that stands to the right of its inputs.
    off_diagonal : float, 0 to 1.

    Returns
    -------
    Tensor [m, n], float32.
    """
    mean = deltas.mean(dim=0, dtype=torch.float64)
    right: Tensor | None = None
    total: Tensor | None = None
    for task, delta in enumerate(deltas):
        matrix = gram.of(task).to(torch.float64)
        diagonal = matrix.diagonal().clone()
        matrix.mul_(off_diagonal).diagonal().copy_(diagonal)
        change = delta - mean
        part = matrix @ (change.T if gram.dim == 1 else change)
        total = matrix if total is None else total.add_(matrix)
        right = part if right is None else right.add_(part)
    assert total is not None
    assert right is not None
    step = solve_semidefinite(total, right, least=1 - off_diagonal)
    return (mean + (step.T if gram.dim == 1 else step)).to(deltas.dtype)


@merger("regmean_plus_plus", arxiv="2508.03121", alpha=1.0, limits={"off_diagonal": "[0, 1]"})
def regmean_plus_plus(deltas: Tensor, propagated: Gram, *, off_diagonal: float = 0.95) -> Tensor:
    """RegMean++: RegMean on what the merged layers before a block hand to it.

    The model is merged block by block. What a linear map of task t is fed is measured in task t's
    own block, but that block is fed what the merged blocks before it make of task t's images, as
    in the authors' code and FusionBench. The merged blocks are those at alpha 1. Embeddings, norms
    and biases get the mean, before anything passes them.

    Parameters
    ----------
    deltas : Tensor [T, m, n], float32 – task vectors of one linear map.
    propagated : Gram, [n, n] of each task, or [m, m] of a map that stands to the right of its
        inputs.
    off_diagonal : float, 0 to 1 – see `regmean`.

    Returns
    -------
    Tensor [m, n], float32.
    """
    return regmean(deltas, propagated, off_diagonal=off_diagonal)
