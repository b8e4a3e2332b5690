"""Methods that tell which elements of the merged task vector belong to which task."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mergeloom.merging.group import Group, Survey
from mergeloom.merging.method import merger
from mergeloom.merging.methods._signs import total


@merger(
    "consensus",
    arxiv="2405.07813",
    alpha=0.3,
    grain="element",
    limits={"threshold": "[0, inf)", "agree": "[1, inf)"},
)
def consensus(deltas: Tensor, *, threshold: float = 0.4, agree: int = 2) -> Tensor:
    """Consensus task arithmetic: the sum, where it matters to enough tasks.

    With τ = Σ_t Δ_t and the masks m_t = 1[|Δ_t| > threshold · |τ - Δ_t|], Δ is τ where at least
    `agree` masks are 1, and 0 elsewhere.

    Deviations: the paper picks the threshold per task on validation data, out of 0.2 … 0.6; here
    it is one for all. With fewer than `agree` tasks, all of them suffice.

    Parameters
    ----------
    deltas : Tensor [T, *shape], float32 – task vectors of one parameter.
    threshold : λ of the masks, at least 0.
    agree : number of masks that have to be 1, at least 1.

    Returns
    -------
    Tensor [*shape], float32.
    """
    merged = total(deltas).to(torch.float32)
    masks = _masks(deltas, merged, threshold)
    return masks.sum(dim=0).ge_(min(agree, len(deltas))).mul_(merged)


@merger(
    "tall",
    arxiv="2405.07813",
    alpha=1.0,
    grain="element",
    per_task=True,
    limits={"threshold": "[0, inf)"},
)
def tall(deltas: Tensor, *, threshold: float = 0.4) -> Tensor:
    """TALL masks: for each task the part of the sum that matters to it. One model per task.

    With τ = Σ_t Δ_t, gives m_t ⊙ τ with m_t = 1[|Δ_t| > threshold · |τ - Δ_t|].

    Deviation: the paper picks the threshold per task on validation data, out of 0.2 … 0.6; here it
    is one for all.

    Parameters
    ----------
    deltas : Tensor [T, *shape], float32 – task vectors of one parameter.
    threshold : λ of the masks, at least 0.

    Returns
    -------
    Tensor [T, *shape], float32.
    """
    merged = total(deltas).to(torch.float32)
    return _masks(deltas, merged, threshold).mul_(merged)


def survey_emr(survey: Survey) -> list[float]:
    """The scale of each task: its L1 norm over that of what its mask leaves of the merged one."""

    def norms(group: Group) -> Tensor:
        masks, _, largest = _unify(group.deltas)
        own = torch.linalg.vector_norm(group.deltas, 1, dim=1, dtype=torch.float64)
        masked = masks.mul_(largest).sum(dim=1, dtype=torch.float64)
        return torch.stack([own, masked]).cpu()

    own, masked = sum(survey.each(norms), torch.zeros(2, survey.tasks, dtype=torch.float64))
    return [float(a / b) if b > 0 else 0.0 for a, b in zip(own, masked, strict=True)]


@merger("emr", arxiv="2405.17461", alpha=1.0, grain="element", per_task=True, survey=survey_emr)
def emr(deltas: Tensor, statistics: Sequence[float]) -> Tensor:
    """EMR: elect one task vector, mask it and rescale it for each task. One model per task.

    With γ = sgn(Σ_t Δ_t), m_t = 1[Δ_t γ > 0] and τ = γ · max_t (m_t ⊙ |Δ_t|), gives
    λ_t · m_t ⊙ τ with λ_t = Σ|Δ_t| / Σ|m_t ⊙ τ|, sums over the whole model.

    Deviation: FusionBench sums the means of the tensors, so that small tensors weigh as large ones.

    Parameters
    ----------
    deltas : Tensor [T, *shape], float32 – task vectors of one parameter.
    statistics : λ_t of each task.

    Returns
    -------
    Tensor [T, *shape], float32.
    """
    masks, signs, largest = _unify(deltas)
    masks.mul_(largest.mul_(signs))
    for masked, scale in zip(masks, statistics, strict=True):
        masked.mul_(scale)
    return masks


def _masks(deltas: Tensor, merged: Tensor, threshold: float) -> Tensor:
    """1 where a task's own value outweighs the others', else 0 [T, *shape], float32."""
    others = (merged - deltas).abs_()
    return deltas.abs().sub_(others, alpha=threshold).sign_().relu_()


def _unify(deltas: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Masks [T, *shape], elected signs and largest magnitudes of those signs [*shape]."""
    signs = total(deltas).sign_().to(torch.float32)
    aligned = (deltas * signs).relu_()
    largest = aligned.amax(dim=0)
    return aligned.sign_(), signs, largest
