"""What makes any method's merged task vector better."""

from collections.abc import Callable

import torch
from torch import Tensor

from mergeloom.merging.method import modifier
from mergeloom.models.naming import Place

Triple = tuple[Tensor, Tensor, Tensor]


@modifier("svc", arxiv="2602.05536", on="matrices", limits={"floor": "(0, 1]"})
def svc(spectrum: Callable[[], Triple], deltas: Tensor, *, floor: float = 0.1) -> Tensor:
    """SVC: shrink the singular values of directions that several tasks have in common.

    With the merged matrix M = U Σ Vᵀ, direction u_r holds a_r = u_rᵀ M of the merge and
    a_rⁱ = u_rᵀ Δ_i of task i, and s_rⁱ = ⟨a_r, a_rⁱ⟩ / ‖a_rⁱ‖² tells how many times over the merge
    has it. Returns U diag(γ) Σ Vᵀ with γ_r = T / Σ_i max(floor, s_rⁱ).

    A task that has nothing in a direction (a_rⁱ = 0) counts with `floor`.

    Parameters
    ----------
    spectrum : gives U [m, r], S [r] and Vt [r, n] of the merged matrix; of a sum, from its cache.
    deltas : Tensor [T, m, n], float32 – task vectors.
    floor : float, above 0, at most 1 – the paper's α: 0.1 to 0.2 for sums and means, 1 for methods
        that avoid interference (TSV-M, WUDI), which only makes values smaller.

    Returns
    -------
    Tensor [m, n], float32.
    """
    U, S, Vt = spectrum()
    spread = S.unsqueeze(-1) * Vt
    shares = torch.zeros_like(S)
    for delta in deltas:
        own = U.T @ delta
        square = own.square().sum(dim=-1)
        share = (spread * own).sum(dim=-1) / torch.where(square > 0, square, 1.0)
        shares += share.clamp_min_(floor)
    return U @ (spread * (len(deltas) / shares).unsqueeze(-1))


@modifier("lines", arxiv="2410.17146", grain="element")
def lines(merged: Tensor, place: Place, *, first: float = 0.0, last: float = 1.0) -> Tensor:
    """LiNeS: scale the merged task vector by a factor that grows linearly with depth.

    λ_ℓ = first + (last − first) ℓ/(L − 1) in block ℓ = 0 … L − 1. In the paper's terms `first` is α
    and `last` is α + β. Of one task it has α + β = 1, for T tasks α = ‖Σ_t Δ_t‖ / (T ‖Δ‖), which is
    1/T for the sum, and searches β. Here a common factor is the merge's alpha.

    Deviation: what comes after the last block gets `last`. The paper's code gives everything
    outside blocks the factor of the first one, the final projection too.

    Parameters
    ----------
    merged : Tensor [*shape], float32 – merged task vector.
    first : float – of the first block, and of what comes before it.
    last : float – of the last block, and of what comes after it.

    Returns
    -------
    Tensor [*shape], float32.
    """
    return (first + (last - first) * place.depth) * merged
