"""Methods that express all task vectors in one basis, and merge the coordinates."""

import torch
from torch import Tensor

from mergeloom.merging.method import merger
from mergeloom.merging.methods._ranks import keep_from
from mergeloom.merging.methods._signs import merge_elected

_NEGLIGIBLE = 1e-4  # singular values up to this share of the largest are noise


@merger("knots", arxiv="2410.19735", alpha=1.0, on="matrices", limits={"density": "(0, 1]"})
def knots(deltas: Tensor, *, density: float = 0.2) -> Tensor:
    """KnOTS-TIES: TIES on the coordinates of the task vectors in their common singular basis.

    [Δ_1 | … | Δ_T] = U Σ [V_1ᵀ | … | V_Tᵀ]. The V_tᵀ are merged as by `ties`: of the n entries of
    each the ⌊density · n⌋ + 1 largest are kept, the sign of an entry is that of the sum over tasks,
    and the mean is taken over those that have it. Δ = U Σ V_mergedᵀ.

    U and Σ come from the eigenvectors of Σ_t Δ_t Δ_tᵀ in float64, so the matrices are not put side
    by side.

    Deviations: TIES trims within this matrix, and not over the whole model. Singular values are
    dropped up to 1e-4 of the largest: the paper's code drops them up to 1e-4, which is a part of
    what small task vectors are, and makes the merge depend on their scale. An entry whose sum is
    exactly zero has no sign and becomes zero, so that the signs of singular vectors do not matter.

    Parameters
    ----------
    deltas : Tensor [T, m, n], float32 – task vectors of one matrix.
    density : float, above 0, at most 1 – share of the entries of V_t that are kept.

    Returns
    -------
    Tensor [m, n], float32.
    """
    tasks, _, columns = deltas.shape
    U, S = _common_basis(deltas)
    coordinates = deltas.new_empty(tasks, len(S), columns)
    for coordinate, delta in zip(coordinates, deltas, strict=True):
        coordinate.copy_((U / S).T @ delta.to(torch.float64))
    return (U * S).to(deltas.dtype) @ _ties(coordinates, density)


def _common_basis(deltas: Tensor) -> tuple[Tensor, Tensor]:
    """U [m, r] and singular values [r] of the matrices side by side, float64.

    From the smaller Gram matrix, that of the rows or that of the columns of all tasks.
    """
    tasks, rows, columns = deltas.shape
    if rows <= tasks * columns:
        gram = torch.zeros(rows, rows, dtype=torch.float64, device=deltas.device)
        for delta in deltas:
            exact = delta.to(torch.float64)
            gram.addmm_(exact, exact.T)
    else:
        side_by_side = deltas.transpose(0, 1).flatten(1).to(torch.float64)
        gram = side_by_side.T @ side_by_side
    squares, vectors = torch.linalg.eigh(gram)
    kept = squares > _NEGLIGIBLE**2 * squares[-1].clamp_min(0)
    S = squares[kept].sqrt()
    if rows <= tasks * columns:
        return vectors[:, kept], S
    return side_by_side @ vectors[:, kept] / S, S


def _ties(values: Tensor, density: float) -> Tensor:
    """TIES of T tensors [T, *shape], each trimmed by itself; overwrites them."""
    size = values[0].numel()
    rank = min(int(density * size) + 1, size)
    for value in values if size else ():
        least = value.abs().flatten().kthvalue(size - rank + 1).values
        keep_from(value, float(least), out=value)
    signs = values.sum(dim=0, dtype=torch.float64).sign_().to(values.dtype)
    return merge_elected(values, signs)
