"""Methods that work on the singular values and vectors of weight matrices.

All of them treat the fused attention projection `in_proj_weight` [3d, d] as one matrix, as their
papers' code does; biases, norms, and convolutions get the mean over tasks.
"""

import logging

import torch
from torch import Tensor

from mergeloom.linalg.spectral import polar, truncated_svd
from mergeloom.merging.group import Summed
from mergeloom.merging.method import Factors, merger
from mergeloom.models.naming import Place

log = logging.getLogger(__name__)

# What float32 leaves of a matrix in a space that it does not reach, relative to its norm.
_ROUNDING = 1e-5


@merger("tsv", arxiv="2412.00081", alpha=1.0, on="matrices")
def tsv(svd: Factors) -> Tensor:
    """TSV-M: make the leading singular vectors of different tasks orthogonal.

    With Δ_t ≈ U_t Σ_t V_tᵀ truncated to k = ⌊r/T⌋, the blocks U = [U_1 | … | U_T] and
    V = [V_1 | … | V_T] are replaced by their nearest orthonormal matrices (polar factors U⊥, V⊥):
    Δ = U⊥ diag(Σ_1, …, Σ_T) V⊥ᵀ.

    Deviation: singular vectors of a singular value of zero are left out of U and V. The paper's
    code puts arbitrary ones there, which changes the other tasks' blocks.

    Parameters
    ----------
    svd : Factors, U [T, m, k], S [T, k], Vt [T, k, n] – truncated SVD of each task's matrix.

    Returns
    -------
    Tensor [m, n], float32.
    """
    left, right = orthogonal(svd)
    return (left * svd.S.flatten()) @ right


def orthogonal(svd: Factors) -> tuple[Tensor, Tensor]:
    """Nearest orthonormal matrices U⊥ [m, T k] and V⊥ᵀ [T k, n] of all tasks' singular vectors."""
    return polar(side_by_side(svd.U)), polar(svd.Vt.flatten(0, 1))


@merger("tsv_vectors", arxiv="2412.00081", alpha=1.0, on="matrices", per_task=True, shares=True)
def tsv_vectors(svd: Factors) -> Tensor:
    """TSV-M taken apart: the share of each task in the sum that TSV-M is.

    Δ_t = U⊥_t Σ_t V⊥_tᵀ with the task's columns of U⊥ and rows of V⊥ᵀ of `tsv`, and Δ_t / T of what
    is no matrix. Adapters that combine these begin, at coefficient 1, as TSV-M.

    Parameters
    ----------
    svd : Factors, U [T, m, k], S [T, k], Vt [T, k, n] – truncated SVD of each task's matrix.

    Returns
    -------
    Tensor [T, m, n], float32.
    """
    left, right = orthogonal(svd)
    tasks = len(svd.S)
    of_tasks = left.unflatten(1, (tasks, -1)).movedim(1, 0) * svd.S.unsqueeze(-2)
    return of_tasks @ right.unflatten(0, (tasks, -1))


@merger("tsv_c", arxiv="2412.00081", alpha=1.0, on="matrices", per_task=True)
def tsv_c(svd: Factors) -> Tensor:
    """TSV-C: compress each task's matrices to its share of the singular values.

    Δ_t = U_t Σ_t V_tᵀ truncated to k = ⌊r/T⌋: T models in the room of one, told apart by the task.
    Vectors are each task's own.

    Parameters
    ----------
    svd : Factors, U [T, m, k], S [T, k], Vt [T, k, n] – truncated SVD of each task's matrix.

    Returns
    -------
    Tensor [T, m, n], float32.
    """
    return (svd.U * svd.S.unsqueeze(-2)) @ svd.Vt


@merger("isotropic", arxiv="2502.04959", alpha=1.0, on="matrices")
def isotropic(summed: Summed) -> Tensor:
    """Iso-C: give the summed task vector a flat spectrum.

    With M = Σ_t Δ_t = U Σ Vᵀ, returns mean(Σ) · U Vᵀ. Only the polar factor U Vᵀ is computed and
    with it the nuclear norm ΣΣ = ⟨U Vᵀ, M⟩; the mean is over min(m, n) values.

    Deviation: where M lacks full rank, only its own directions are made equal. The paper's code
    also raises those that M does not have, in a basis that rounding picks.

    Parameters
    ----------
    summed : Summed – sum M of the task vectors of one matrix [m, n].

    Returns
    -------
    Tensor [m, n], float32.
    """
    factor, nuclear_norm = summed.polar()
    return nuclear_norm / min(factor.shape) * factor


@merger(
    "iso_cts",
    arxiv="2502.04959",
    alpha=1.0,
    on="matrices",
    limits={"common_space_fraction": "[0, 1]"},
)
def iso_cts(
    summed: Summed, deltas: Tensor, place: Place, *, common_space_fraction: float = 0.8
) -> Tensor:
    """Iso-CTS: a flat spectrum over directions of the sum, and some of each task's own.

    Of the r = min(m, n) directions of M = Σ_t Δ_t = U Σ Vᵀ the leading k are kept as (U_c, Σ_c,
    V_c), k being about `common_space_fraction` · r; the others give way to the n leading triples
    (U_t, Σ_t, V_t) of what of each task is outside, Δ_t − U_c U_cᵀ Δ_t, with k + T n = r:
    Δ = mean(Σ_1, …, Σ_T, Σ_c) · polar([U_1 | … | U_T | U_c]) polar([V_1 | … | V_T | V_c])ᵀ.
    As in the paper's code, T n is ⌊f r⌋'s remainder rounded to a multiple of T; if that gives n = 0
    (more tasks than directions are left), the matrix gets Iso-C.

    No decomposition is of a larger matrix than it must be: U_tᵀ U_c = 0, so only [U_1 | … | U_T]
    needs a polar factor; and where U is square, what is outside lies in the span of the remaining
    columns of U, r − k of them.

    Deviations: vectors of a singular value of zero are left out, as in `tsv`, also where rounding
    makes it up to 1e-5 ‖Δ_t‖ (tasks of low rank may have nothing outside); n is at most ⌊r/T⌋ where
    rounding up would take more than there are.

    Parameters
    ----------
    summed : Summed – sum M of the task vectors of one matrix [m, n].
    deltas : Tensor [T, m, n], float32 – task vectors.
    common_space_fraction : float, 0 to 1.

    Returns
    -------
    Tensor [m, n], float32.
    """
    factor, mean = common_and_own(summed, deltas, place, common_space_fraction)
    return mean * factor


def common_and_own(
    summed: Summed, deltas: Tensor, place: Place, common_space_fraction: float
) -> tuple[Tensor, Tensor]:
    """Return the product of Iso-CTS's orthonormal matrices [m, n], and the mean singular value."""
    tasks, rows, columns = deltas.shape
    rank = min(rows, columns)
    count = _of_each_task(rank, tasks, common_space_fraction)
    if count == 0:
        log.warning(
            "%s %s: no room for directions of each of %d tasks beside the common ones, "
            "Iso-CTS is Iso-C there",
            place.key,
            list(place.shape),
            tasks,
        )
        factor, nuclear_norm = summed.polar()
        return factor, nuclear_norm / rank
    common = rank - tasks * count
    U, S, Vt = summed.svd(rank if rows <= columns else common)
    U_c = U[:, :common]
    if rows <= columns and S[-1] > 0:
        outside = U[:, common:]
        U_t, S_t, Vt_t = truncated_svd(outside.T @ deltas, count)
    else:
        outside = None
        triples = [truncated_svd(delta - U_c @ (U_c.T @ delta), count) for delta in deltas]
        U_t, S_t, Vt_t = (torch.stack(part) for part in zip(*triples, strict=True))
    there = S_t[:, :count] > _ROUNDING * deltas.flatten(1).norm(dim=1, keepdim=True)
    mean = torch.cat([(S_t[:, :count] * there).flatten(), S[:common]]).mean()
    own = polar(side_by_side(U_t * there.unsqueeze(-2)))
    left = torch.cat([own if outside is None else outside @ own, U_c], dim=1)
    right = torch.cat([(Vt_t * there.unsqueeze(-1)).flatten(0, 1), Vt[:common]])
    return left @ polar(right), mean


def _of_each_task(rank: int, tasks: int, common: float) -> int:
    """How many of `rank` directions each task gets of its own, if this fraction is common."""
    return min(round((rank - int(common * rank)) / tasks), rank // tasks)


def side_by_side(vectors: Tensor) -> Tensor:
    """[U_1 | … | U_T], [m, T k], of vectors [T, m, k]."""
    return vectors.transpose(0, 1).flatten(1)
