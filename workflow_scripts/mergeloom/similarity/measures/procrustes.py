"""How far the features of two models are apart after the best rotation."""

import torch
from torch import Tensor

from mergeloom.similarity.features import Features
from mergeloom.similarity.linear import centred
from mergeloom.similarity.measure import measure


@measure("procrustes", arxiv="2108.01661")
def procrustes(features: Features) -> Tensor:
    """Procrustes similarity 1 - d²/2 of centred features of unit Frobenius norm.

    d² = min_Q ‖X - Y Q‖² = 2 - 2 ‖Xᵀ Y‖_* over orthogonal Q (of padded features, where their sizes
    differ) is the squared Procrustes distance (Ding et al. 2021). The similarity is the nuclear
    norm ‖Xᵀ Y‖_*, from 0 to 1, so that more is more alike as in every other measure; the distance
    is √(2 - 2 s).

    Parameters
    ----------
    features : of M models.

    Returns
    -------
    Tensor [M - known, M], float64.
    """

    def prepare(model: int) -> Tensor:
        x = centred(features.read(model))
        return x.div_(torch.linalg.vector_norm(x, dtype=torch.float64).to(x.dtype))

    columns = features.prepared(prepare)

    def similarity(pair: tuple[int, int]) -> Tensor:
        x, y = (columns[model] for model in pair)
        return torch.linalg.svdvals((x.T @ y).double()).sum().clamp_(max=1)

    return features.of_pairs(similarity)
