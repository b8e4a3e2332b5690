"""Centred kernel alignment (Kornblith et al. 2019, arXiv 1905.00414), linear and RBF.

CKA = HSIC(K, L) / √(HSIC(K, K) HSIC(L, L)). The unbiased HSIC_1 (Song et al. 2012) uses kernels
with a zero diagonal; with row sums k, l and n rows,

    n (n-3) HSIC_1 = ⟨K, L⟩ + (1·k)(1·l) / ((n-1)(n-2)) - 2 k·l / (n-2).

It may be slightly negative. The biased HSIC uses whole kernels and double centring:

    n² HSIC_0 = ⟨K, L⟩ + (1·k)(1·l) / n² - 2 k·l / n.

Neither changes when a constant is added to all entries of a kernel (off the diagonal, for HSIC_1),
nor when features are centred: both are used to keep digits.
"""

import math

import numpy as np
import torch
from torch import Tensor

from mergeloom.errors import MergeloomError
from mergeloom.linalg.products import times_transpose
from mergeloom.similarity.features import Features
from mergeloom.similarity.linear import Kernels, centred, linear_kernels
from mergeloom.similarity.measure import measure
from mergeloom.similarity.triangle import hollow, products, tiles

_SAMPLE = 256  # rows whose kernel tells its mean well enough


@measure("cka_linear", arxiv="1905.00414")
def cka_linear(features: Features, *, biased: bool = False) -> Tensor:
    """CKA with the linear kernel K = X Xᵀ, unbiased unless `biased`.

    Parameters
    ----------
    features : of M models.
    biased : take the HSIC of whole, doubly centred kernels.

    Returns
    -------
    Tensor [M - known, M], float64.

    Raises
    ------
    MergeloomError
        For a model whose kernel is constant.
    """
    columns = features.prepared(lambda m: centred(features.read(m)))
    return _cka(features, linear_kernels(features, columns), biased)


@measure("cka_rbf", arxiv="1905.00414", limits={"sigma": "(0, inf)", "sigma_of_median": "[0, inf)"})
def cka_rbf(
    features: Features, *, sigma: float = 0.4, sigma_of_median: float = 0.0, biased: bool = False
) -> Tensor:
    """CKA with the kernel K_ij = exp(-‖x_i - x_j‖² / 2σ²), unbiased unless `biased`.

    Parameters
    ----------
    features : of M models.
    sigma : σ in units of the features; 0.4 is for rows of unit length (Ciernik et al. 2024).
    sigma_of_median : σ as a multiple of the median distance of a model's rows, as Kornblith et al.
        choose it; 0 for `sigma`.
    biased : take the HSIC of whole, doubly centred kernels.

    Returns
    -------
    Tensor [M - known, M], float64.

    Raises
    ------
    MergeloomError
        For a model whose kernel is constant, as it is when sigma is far too small or too large.
    """

    def prepare(model: int) -> Tensor:
        x = centred(features.read(model))
        width = sigma_of_median * _median_distance(features, x) if sigma_of_median else sigma
        return _exponents(x, width)

    columns = features.prepared(prepare)
    # A constant that is near the kernel's mean is taken off, so that products keep their digits.
    means = [_mean(x[:: max(1, features.n // _SAMPLE)]) for x in columns]

    def fill(model: int, rows: slice, cols: slice, tile: Tensor) -> None:
        times_transpose(_left(columns[model][rows]), columns[model][cols], out=tile)
        tile.exp_().sub_(means[model])

    found = products(features, fill, sums=True)
    diagonals = (1 - torch.tensor(means, dtype=torch.float64, device=features.device))[:, None]
    kernels = Kernels(
        2 * found.pairs, 2 * found.norms, found.sums, diagonals.expand(-1, features.n)
    )
    return _cka(features, kernels, biased)


def _exponents(x: Tensor, width: float) -> Tensor:
    """X [n, d + 2]: a row of `_left(X)` times one of X is -‖x_i - x_j‖² / 2σ²."""
    n, d = x.shape
    made = torch.empty(n, d + 2, dtype=x.dtype, device=x.device)
    torch.div(x, width, out=made[:, :d])
    made[:, d] = 1
    made[:, d + 1] = made[:, :d].square().sum(1).mul_(-0.5)
    return made


def _left(made: Tensor) -> Tensor:
    swapped = made.clone()
    swapped[:, -2], swapped[:, -1] = made[:, -1], made[:, -2]
    return swapped


def _mean(sample: Tensor) -> float:
    """The mean of the kernel off its diagonal, by some rows."""
    kernel = (_left(sample) @ sample.T).exp_()
    return float((kernel.sum(dtype=torch.float64) - len(sample)) / (len(sample) ** 2 - len(sample)))


def _median_distance(features: Features, x: Tensor) -> float:
    """The median of ‖x_i - x_j‖ over all pairs of rows."""
    n = features.n
    squares = torch.empty(n * (n - 1) // 2, dtype=x.dtype)
    made, end = _exponents(x, 1.0), 0
    for rows, columns in tiles(n, features.tile):
        tile = _left(made[rows]) @ made[columns].T
        if rows.start == columns.start:
            tile = tile[hollow(torch.ones_like(tile), rows, columns) > 0]
        squares[end : end + tile.numel()] = tile.flatten()
        end += tile.numel()
    middle = np.median(squares.numpy(), overwrite_input=True)
    return math.sqrt(max(0.0, -2 * float(middle)))


def _cka(features: Features, kernels: Kernels, biased: bool) -> Tensor:
    n, known = features.n, features.known
    pairs, norms, sums = kernels.pairs, kernels.norms, kernels.sums
    if biased:
        diagonals = kernels.diagonals
        pairs = pairs + diagonals[known:] @ diagonals.T
        norms = norms + diagonals.square().sum(1)
        sums = sums + diagonals
        of_totals, of_sums = 1 / n**2, 2 / n
    else:
        of_totals, of_sums = 1 / ((n - 1) * (n - 2)), 2 / (n - 2)
    totals = sums.sum(1)
    pairs = (
        pairs + of_totals * torch.outer(totals[known:], totals) - of_sums * sums[known:] @ sums.T
    )
    own = norms + of_totals * totals.square() - of_sums * sums.square().sum(1)
    for model, (value, norm) in enumerate(zip(own.tolist(), norms.tolist(), strict=True)):
        if not value > 1e-12 * norm:
            raise MergeloomError(
                f"{features.paths[model]}: the kernel of {features.models[model]} is constant, so "
                "that its CKA to any model is undefined. Take a sigma that fits its distances "
                "(sigma_of_median=0.5), or leave this model out."
            )
    return pairs / torch.outer(own[known:], own).sqrt_()
