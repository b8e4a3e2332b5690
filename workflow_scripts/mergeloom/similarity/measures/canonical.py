"""Canonical correlations of two models' features: SVCCA and PWCCA."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mergeloom.errors import MergeloomError
from mergeloom.similarity.features import Features
from mergeloom.similarity.linear import centred
from mergeloom.similarity.measure import measure

# Directions with a smaller share of the largest singular value are rounding of float32 features.
_RANK = 1e-6


@dataclass(frozen=True)
class Directions:
    """Centred features X = U C, by directions in the space of rows.

    U : Tensor [n, r], orthonormal columns.
    C : Tensor [r, d], float64.
    """

    U: Tensor
    C: Tensor


@measure("svcca", arxiv="1706.05806", limits={"variance": "(0, 1]"})
def svcca(features: Features, *, variance: float = 0.99) -> Tensor:
    """Mean canonical correlation of the leading principal directions (SVCCA).

    Raghu et al. 2017: of each model's centred features, the fewest principal directions that hold
    the share `variance` are kept; the mean is over as many correlations as the smaller of two
    models has directions.

    Parameters
    ----------
    features : of M models.
    variance : share of the variance that is kept.

    Returns
    -------
    Tensor [M - known, M], float64.

    Raises
    ------
    MergeloomError
        For a model with as many directions as rows: it correlates perfectly with any.
    """
    found = _directions(features, variance)

    def similarity(pair: tuple[int, int]) -> Tensor:
        x, y = (found[model].U for model in pair)
        return torch.linalg.svdvals((x.T @ y).double()).clamp_(max=1).mean()

    return features.of_pairs(similarity)


@measure("pwcca", arxiv="1806.05759")
def pwcca(features: Features) -> Tensor:
    """Canonical correlations weighted by how much of the features they account for (PWCCA).

    Morcos et al. 2018: Σ α_i ρ_i / Σ α_i with α_i = Σ_j |⟨h_i, x_j⟩| over the features x_j of one
    model and its canonical variates h_i. As published it depends on which of the two models gives
    the weights; here it is the mean of both ways. Directions below a millionth of the largest
    singular value do not count.

    Parameters
    ----------
    features : of M models.

    Returns
    -------
    Tensor [M - known, M], float64.

    Raises
    ------
    MergeloomError
        For a model with as many directions as rows: it correlates perfectly with any.
    """
    found = _directions(features, 1.0)

    def similarity(pair: tuple[int, int]) -> Tensor:
        x, y = (found[model] for model in pair)
        left, correlations, right = torch.linalg.svd((x.U.T @ y.U).double(), full_matrices=False)
        correlations.clamp_(max=1)
        ways = []
        for variates, model in ((left.T, x), (right, y)):
            weights = (variates @ model.C).abs().sum(1)
            ways.append((weights * correlations).sum() / weights.sum())
        return (ways[0] + ways[1]) / 2

    return features.of_pairs(similarity)


def _directions(features: Features, variance: float) -> list[Directions]:
    coefficients: dict[int, Tensor] = {}

    def prepare(model: int) -> Tensor:
        x = centred(features.read(model, torch.float64))
        n, d = x.shape
        squares, vectors = torch.linalg.eigh(x.T @ x if d <= n else x @ x.T)
        squares, vectors = squares.flip(0).clamp_(min=0), vectors.flip(1)
        rank = int((squares > _RANK**2 * squares[0]).sum())
        if variance < 1:
            shares = squares.cumsum(0) / squares.sum()
            rank = min(rank, int((shares < variance).sum()) + 1)
        if rank >= n - 1:
            raise MergeloomError(
                f"{features.paths[model]}: the features of {features.models[model]} have "
                f"{rank} directions on {n} rows, which correlate perfectly with any model's. Give "
                "more rows, or take svcca with a smaller variance."
            )
        squares, vectors = squares[:rank], vectors[:, :rank]
        if d <= n:
            coefficients[model] = vectors.T * squares.sqrt()[:, None]
            return x @ (vectors / squares.sqrt())
        coefficients[model] = vectors.T @ x
        return vectors

    columns = features.prepared(prepare)
    return [Directions(U, coefficients[model]) for model, U in enumerate(columns)]
