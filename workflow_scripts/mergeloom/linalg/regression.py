"""Linear equations with sums of Gram matrices, which may be singular."""

import torch
from torch import Tensor

_ROUNDING = torch.finfo(torch.float32).eps  # of the entries of what was summed in float32


def solve_semidefinite(matrix: Tensor, right: Tensor, least: float = 0.0) -> Tensor:
    """Solve A X = B for a symmetric A without negative eigenvalues.

    With D = diag(A), C = D^(-1/2) A D^(-1/2) has ones on its diagonal, and rounding of A's entries
    is the same share of all of them. If C has no eigenvalue below `least`, X comes from its
    Cholesky factors. Otherwise it comes from its eigenvectors: eigenvalues of at most n · 1.2e-7,
    what float32 makes of zeros, count as zero, and X is the solution of the smallest norm, whose
    columns are in the range of A.

    Parameters
    ----------
    matrix : Tensor [n, n], float64; overwritten.
    right : Tensor [n, m], float64, in the range of A but for rounding.
    least : float – a bound that is known of C's smallest eigenvalue, zero rows aside; up to
        n · 1.2e-7 it is none.

    Returns
    -------
    Tensor [n, m], float64. Rows are zero where those of A are.
    """
    diagonal = matrix.diagonal().clone()
    there = diagonal > 0
    scale = (torch.where(there, diagonal, 1).rsqrt() * there).unsqueeze(1)
    scaled = matrix.mul_(scale).mul_(scale.T)
    scaled.diagonal().copy_(torch.ones_like(diagonal))  # zero rows are equations of their own
    goal = right * scale
    cutoff = len(matrix) * _ROUNDING
    if least > cutoff:
        return torch.cholesky_solve(goal, torch.linalg.cholesky(scaled)) * scale
    values, vectors = torch.linalg.eigh(scaled)
    kept = vectors[:, values > cutoff]
    solution = kept @ ((kept.T @ goal) / values[values > cutoff].unsqueeze(1)) * scale
    # What of the solution A does not see is left out; C u = 0 says A D^(-1/2) u = 0.
    unseen = torch.linalg.qr(vectors[:, values <= cutoff] * scale).Q
    return solution - unseen @ (unseen.T @ solution)
