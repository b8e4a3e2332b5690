"""Methods that work on the singular values and vectors of weight matrices.

All of them treat the fused attention projection `in_proj_weight` [3d, d] as one matrix, as their
papers' code does; biases, norms, and convolutions get the mean over tasks.
"""

from torch import Tensor

from mergeloom.errors import MergeloomError
from mergeloom.linalg.spectral import polar
from mergeloom.merging.group import Summed
from mergeloom.merging.method import Factors, merger


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

    Raises
    ------
    MergeloomError
        If k = 0: there are more tasks than the matrix has singular values.
    """
    tasks, rows, kept = svd.U.shape
    if kept == 0:
        raise MergeloomError(
            f"TSV-M gives each of {tasks} tasks the same share of a matrix's singular vectors, but "
            f"a matrix with {rows} rows and {svd.Vt.shape[-1]} columns has fewer than {tasks}. "
            "Merge fewer tasks, or use another method."
        )
    left = svd.U.transpose(0, 1).reshape(rows, tasks * kept)
    right = svd.Vt.reshape(tasks * kept, -1)
    return (polar(left) * svd.S.reshape(-1)) @ polar(right)


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
