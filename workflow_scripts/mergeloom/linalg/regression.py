"""Linear equations with sums of Gram matrices, which may be singular."""

import torch
from torch import Tensor

# Below this share of the diagonal, eigenvalues of what was summed in float32 are rounding.
_ROUNDING = torch.finfo(torch.float32).eps


def solve_semidefinite(matrix: Tensor, right: Tensor, least: float = 0.0) -> Tensor:
    """Solve A X = B for a symmetric A without negative eigenvalues, in units of A's diagonal.

    With D = diag(A), C = D^(-1/2) A D^(-1/2) has ones on its diagonal. Where C has eigenvalues of
    at least `least`, X = D^(-1/2) C⁻¹ D^(-1/2) B by Cholesky factors. Otherwise C⁻¹ is the
    pseudo-inverse by its eigenvectors, and eigenvalues of at most n · 1.2e-7, what rounding of A to
    float32 makes of zeros, count as zero: X is the solution of the smallest ‖D^(1/2) X‖. Rows of X
    are zero where A's are.

    Parameters
    ----------
    matrix : Tensor [n, n], float64; overwritten.
    right : Tensor [n, m], float64, in the range of A but for rounding.
    least : float – a bound that is known of C's smallest eigenvalue, over zero rows aside; up to
        n · 1.2e-7 it is none.

    Returns
    -------
    Tensor [n, m], float64.
    """
    diagonal = matrix.diagonal().clone()
    there = diagonal > 0
    scale = torch.where(there, diagonal, 1).rsqrt() * there
    scaled = matrix.mul_(scale).mul_(scale.unsqueeze(1))
    scaled.diagonal().copy_(torch.ones_like(scale))  # zero rows are equations of their own
    goal = right * scale.unsqueeze(1)
    cutoff = len(matrix) * _ROUNDING
    if least > cutoff:
        return torch.cholesky_solve(goal, torch.linalg.cholesky(scaled)) * scale.unsqueeze(1)
    values, vectors = torch.linalg.eigh(scaled)
    inverse = torch.where(values > cutoff, 1 / values, 0)
    return vectors @ (inverse.unsqueeze(1) * (vectors.T @ goal)) * scale.unsqueeze(1)
