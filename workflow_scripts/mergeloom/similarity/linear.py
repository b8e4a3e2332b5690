"""Products of linear kernels K = X Xᵀ, by way of the kernels or of the features."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mergeloom.linalg.products import times_transpose
from mergeloom.similarity.features import Features
from mergeloom.similarity.triangle import products


@dataclass(frozen=True)
class Kernels:
    """Sums over the kernels of M models, all float64: what CKA and RSA are made of.

    pairs : Tensor [M - known, M], Σ_{i≠j} K_ij L_ij for each new model and each model.
    norms : Tensor [M], Σ_{i≠j} K_ij².
    sums : Tensor [M, n], Σ_{j≠i} K_ij.
    diagonals : Tensor [M, n], K_ii.
    """

    pairs: Tensor
    norms: Tensor
    sums: Tensor
    diagonals: Tensor


def centred(values: Tensor) -> Tensor:
    """Columns of features [n, d] without their means, in place."""
    return values.sub_(values.mean(0, dtype=torch.float64).to(values.dtype))


def linear_kernels(features: Features, columns: list[Tensor]) -> Kernels:
    """Sums over K = X Xᵀ for all models.

    Either the kernels are made tile by tile, n² Σ d operations, or the products come of the
    features, ⟨K, L⟩ = ‖Xᵀ Y‖², 2 n Σ d d' operations over all pairs: whichever is less.

    Parameters
    ----------
    columns : X of every model, Tensor [n, d] each, centred: the sums then lose no digits.
    """
    diagonals = torch.stack([x.square().sum(1, dtype=torch.float64) for x in columns])
    # Exact but for the rounding of X: its sum over rows is zero only nearly.
    totals = [x.sum(0, dtype=torch.float64) for x in columns]
    sums = torch.stack([_times(x, total) for x, total in zip(columns, totals, strict=True)])
    sums -= diagonals
    if features_are_cheaper(features, [x.shape[1] for x in columns]):
        pairs, norms = _by_features(features, columns, diagonals)
    else:
        found = products(
            features,
            lambda m, rows, cols, tile: times_transpose(
                columns[m][rows], columns[m][cols], out=tile
            ),
        )
        pairs, norms = 2 * found.pairs, 2 * found.norms
    return Kernels(pairs, norms, sums, diagonals)


def features_are_cheaper(features: Features, widths: list[int]) -> bool:
    """Whether ‖Xᵀ Y‖² of all pairs takes fewer operations than the kernels.

    Parameters
    ----------
    widths : d of every model.
    """
    of_pairs = sum(widths[new] * widths[other] for new, other in features.pairs())
    of_features = 2 * features.n * (of_pairs + sum(d * d for d in widths))
    of_kernels = features.n**2 * (sum(widths) + len(features) * (len(features) - features.known))
    return of_features < of_kernels


def _by_features(
    features: Features, columns: list[Tensor], diagonals: Tensor
) -> tuple[Tensor, Tensor]:
    known = features.known
    pairs = features.of_pairs(lambda pair: _product(columns[pair[0]], columns[pair[1]]))
    with features.threads() as threads:
        norms = torch.stack(threads.each(lambda x: _product(x, x), columns)).cpu()
    pairs[:, known:].diagonal().copy_(norms[known:])
    pairs, norms = pairs.to(diagonals.device), norms.to(diagonals.device)
    return pairs - diagonals[known:] @ diagonals.T, norms - diagonals.square().sum(1)


def _product(x: Tensor, y: Tensor) -> Tensor:
    return (x.T @ y).square_().sum(dtype=torch.float64)


def _times(x: Tensor, vector: Tensor) -> Tensor:
    """X v in float64, a piece of X [n, d] at a time."""
    return torch.cat([piece.double() @ vector for piece in x.split(1024)])
