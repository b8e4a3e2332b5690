"""Merging by modular duality: each linear map becomes its steepest direction, in units of its own.

What a map's dual and its share of the model's mass are says `mergeloom.models.duality`. All
parameters that are no maps get the mean over tasks; without `positional`, so do embeddings.

The methods differ in how they aggregate. They are those of a public study that builds on the theory
of arXiv 2410.21265, which is about training. Deviation of all: a matrix that lacks full rank has a
partial isometry as its polar factor, with no directions of its own making (see `isotropic`).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from mergeloom.linalg.spectral import polar
from mergeloom.merging.group import Summed
from mergeloom.merging.method import Factors, merger
from mergeloom.merging.methods.singular import common_and_own, orthogonal, side_by_side
from mergeloom.models.duality import dual_scale, polar_of_map
from mergeloom.models.naming import Place


@merger("dual", arxiv="2410.21265", alpha=1.0, limits={"masses": ("uniform", "linear")})
def dual(
    summed: Summed,
    place: Place,
    tasks: int,
    *,
    masses: str = "uniform",
    positional: bool = True,
) -> Tensor:
    """Dual merging: the modular dual of the average of the task vectors.

    G = 1/T Σ_t Δ_t. The polar factor does not depend on scale: it is that of the sum, and the one
    of Iso-C.

    Parameters
    ----------
    summed : Summed – sum of the task vectors of one parameter [*shape].
    masses : "uniform" or "linear".
    positional : bool – whether embeddings before the first block are maps.

    Returns
    -------
    Tensor [*shape], float32.
    """
    share = dual_scale(place, masses, positional)
    if share is None:
        return summed.total / tasks
    if len(place.shape) == 2:
        return share * summed.polar()[0]
    return share * polar_of_map(summed.total)


@merger(
    "dual_tsv",
    arxiv="2410.21265",
    alpha=1.0,
    on="matrices",
    limits={"masses": ("uniform", "linear"), "fallback": ("dual", "mean")},
)
def dual_tsv(
    svd: Factors,
    mean: Callable[[], Tensor],
    place: Place,
    *,
    masses: str = "uniform",
    positional: bool = True,
    fallback: str = "dual",
) -> Tensor:
    """Dual merging of TSV-M: G is what TSV-M makes of the task vectors.

    G = U⊥ diag(Σ) V⊥ᵀ is a singular value decomposition already, its polar factor is U⊥ V⊥ᵀ.

    Parameters
    ----------
    svd : Factors, U [T, m, k], S [T, k], Vt [T, k, n] – truncated SVD of each task's matrix.
    mean : gives the mean of the task vectors of one matrix [m, n].
    masses : "uniform" or "linear".
    positional : bool – whether embeddings before the first block are maps.
    fallback : "dual" or "mean" – what convolutions get, and matrices of fewer than T singular
        values.

    Returns
    -------
    Tensor [m, n], float32.
    """
    share = dual_scale(place, masses, positional)
    if share is None:
        return mean()
    left, right = orthogonal(svd)
    return share * left @ right


@merger(
    "dual_truncated",
    arxiv="2410.21265",
    alpha=1.0,
    on="matrices",
    limits={"masses": ("uniform", "linear"), "fallback": ("dual", "mean")},
)
def dual_truncated(
    svd: Factors,
    mean: Callable[[], Tensor],
    place: Place,
    *,
    masses: str = "uniform",
    positional: bool = True,
    fallback: str = "dual",
) -> Tensor:
    """Dual merging of truncated task vectors: G = 1/T Σ_t U_t Σ_t V_tᵀ with k = ⌊r/T⌋ values each.

    With [U_1 Σ_1 | …] = A, [V_1 | …]ᵀ = H V⊥ᵀ and V⊥ᵀ the latter's polar factor, that of G is
    polar(A H) V⊥ᵀ: G lacks rank where T k < r, A H does not.

    Parameters
    ----------
    svd : Factors, U [T, m, k], S [T, k], Vt [T, k, n] – truncated SVD of each task's matrix.
    mean : gives the mean of the task vectors of one matrix [m, n].
    masses : "uniform" or "linear".
    positional : bool – whether embeddings before the first block are maps.
    fallback : "dual" or "mean" – what convolutions get, and matrices of fewer than T singular
        values.

    Returns
    -------
    Tensor [m, n], float32.
    """
    share = dual_scale(place, masses, positional)
    if share is None:
        return mean()
    # In float64: what is small in A is decided by A itself, and not by the rounding of A H.
    left = side_by_side(svd.U * svd.S.unsqueeze(-2)).to(torch.float64)
    vectors = svd.Vt.flatten(0, 1).to(torch.float64)
    right = polar(vectors)
    factor = polar(left @ (vectors @ right.T)) @ right
    return (share * factor).to(svd.U.dtype)


@merger(
    "dual_cts",
    arxiv="2410.21265",
    alpha=1.0,
    limits={"masses": ("uniform", "linear"), "common_space_fraction": "[0, 1]"},
)
def dual_cts(
    summed: Summed,
    deltas: Tensor,
    place: Place,
    tasks: int,
    *,
    masses: str = "uniform",
    positional: bool = True,
    common_space_fraction: float = 0.8,
) -> Tensor:
    """Dual merging of Iso-CTS: G is what Iso-CTS makes of the task vectors.

    G is the mean singular value times its polar factor: one scale takes the other's place.
    Convolutions, which Iso-CTS does not know, are those of `dual`.

    Parameters
    ----------
    summed : Summed – sum of the task vectors of one parameter [*shape].
    deltas : Tensor [T, *shape], float32 – task vectors.
    masses : "uniform" or "linear".
    positional : bool – whether embeddings before the first block are maps.
    common_space_fraction : float, 0 to 1 – of Iso-CTS.

    Returns
    -------
    Tensor [*shape], float32.
    """
    share = dual_scale(place, masses, positional)
    if share is None or len(place.shape) != 2:
        return dual(summed, place, tasks, masses=masses, positional=positional)
    factor, _ = common_and_own(summed, deltas, place, common_space_fraction)
    return share * factor
