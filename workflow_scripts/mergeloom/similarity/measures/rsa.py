"""Representational similarity analysis (Kriegeskorte et al. 2008): how alike distances are.

The distance of two rows is 1 - r, r being Pearson's correlation of their features; models are
compared by Pearson's or Spearman's correlation of all n (n-1) / 2 distances. As both only ask for
the order or the shape of distances, r itself is taken.
"""

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from mergeloom.errors import MergeloomError
from mergeloom.linalg.products import times_transpose
from mergeloom.similarity.features import FEW_ROWS, Features
from mergeloom.similarity.linear import centred, linear_kernels
from mergeloom.similarity.measure import measure
from mergeloom.similarity.triangle import hollow, products, tiles

_DIGITS = 12  # of r in float64: what is equal to so many is a tie
_CELLS = 1 << 20  # of an interval of length 1, in which r in float32 is told apart
_NEIGHBOURS = 3  # cells that values of a tie may fall into by rounding
_COUNTED = 1 << 23  # values that are counted together
_HELD = 2**30  # bytes of cells that are kept from counting to ranking


@measure("rsa_pearson")
def rsa_pearson(features: Features) -> Tensor:
    """Pearson correlation of the distances 1 - Pearson's r between rows.

    With columns centred, r_ij = c_i·c_j + a_i + a_j; sums over c are as those of linear CKA, and
    those over a are exact.

    Parameters
    ----------
    features : of M models.

    Returns
    -------
    Tensor [M - known, M], float64.

    Raises
    ------
    MergeloomError
        For a row of features that are all the same, and for a model whose distances are.
    """
    n, known = features.n, features.known
    shifts = features.zeros64(len(features), n)

    def prepare(model: int) -> Tensor:
        z = _standardised(features, model)
        mean = z.mean(0, dtype=torch.float64)
        columns = centred(z)
        shifts[model] = torch.cat([p.double() @ mean for p in columns.split(1024)])
        shifts[model] += mean.square().sum() / 2
        return columns

    columns = features.prepared(prepare)
    kernels = linear_kernels(features, columns)
    totals = kernels.sums.sum(1) + 2 * (n - 1) * shifts.sum(1)
    whole = shifts.sum(1)

    def added(mine: slice) -> Tensor:
        across = shifts[mine] @ kernels.sums.T + kernels.sums[mine] @ shifts.T
        squares = (n - 2) * shifts[mine] @ shifts.T + torch.outer(whole[mine], whole)
        return 2 * (across + squares) - torch.outer(totals[mine], totals) / (n * (n - 1))

    everyone = slice(None)
    variances = kernels.norms + added(everyone).diagonal()
    _check_varied(features, variances, kernels.norms + 1)
    covariances = kernels.pairs + added(slice(known, None))
    return covariances / torch.outer(variances[known:], variances).sqrt_()


@measure("rsa_spearman")
def rsa_spearman(features: Features) -> Tensor:
    """Spearman correlation of the distances 1 - Pearson's r between rows; ties have a mean rank.

    The distances of a model are ranked once, and a pair of models is then one dot product. Up to
    1024 rows, distances that are equal to 12 digits are ties. For more, r is told apart to 2^-20:
    ranks are then read off a count of values per cell, without sorting, and two numbers of
    neighbouring cells that are alone are a tie that rounding has parted.

    Parameters
    ----------
    features : of M models.

    Returns
    -------
    Tensor [M - known, M], float64.

    Raises
    ------
    MergeloomError
        For a row of features that are all the same, and for a model whose distances are.
    """
    return _spearman(features, streamed=features.n > FEW_ROWS)


def _spearman(features: Features, streamed: bool) -> Tensor:
    pairs, norms = (_by_cells if streamed else _by_sorting)(features)
    _check_varied(features, norms, torch.ones_like(norms))
    return pairs / torch.outer(norms[features.known :], norms).sqrt_()


def _by_sorting(features: Features) -> tuple[Tensor, Tensor]:
    """Products of centred ranks, in memory."""
    upper = np.triu_indices(features.n, 1)

    def ranks(model: int) -> Tensor:
        z = _standardised(features, model).double()
        ranked = rankdata(np.round((z @ z.T).cpu().numpy()[upper], _DIGITS))
        return torch.from_numpy(ranked - ranked.mean()).div_(len(ranked))

    with features.threads() as threads:
        ranked = torch.stack(threads.each(ranks, range(len(features)))).to(features.device)
    return ranked[features.known :] @ ranked.T, ranked.square().sum(1)


def _by_cells(features: Features) -> tuple[Tensor, Tensor]:
    """Products of centred ranks in two passes over the tiles of each model: count, then rank."""
    # A power of two on either side: r comes out in units of a cell, without rounding.
    columns = features.prepared(lambda m: _standardised(features, m).mul_(_CELLS**0.5))
    layout = list(tiles(features.n, features.tile))
    areas = [(r.stop - r.start) * (c.stop - c.start) for r, c in layout]
    starts = dict(
        zip(((r.start, c.start) for r, c in layout), np.cumsum([0, *areas]), strict=False)
    )
    held = int(_HELD // (4 * sum(areas)))

    def cells(model: int, rows: slice, cols: slice) -> Tensor:
        x, y = columns[model][rows], columns[model][cols]
        r = times_transpose(x, y, out=features.empty(len(x), len(y)))
        return r.round_().clamp_(-_CELLS, _CELLS).to(torch.int32).add_(_CELLS)

    def rank(model: int) -> tuple[Tensor, Tensor | None]:
        """The rank of each cell's values, and the cells of all tiles, for some models."""
        counts = torch.zeros(2 * _CELLS + 1, dtype=torch.int64, device=features.device)
        kept = torch.empty(
            sum(areas) if model < held else 0, dtype=torch.int32, device=features.device
        )
        waiting: list[Tensor] = []
        for rows, cols in layout:
            tile = cells(model, rows, cols)
            if model < held:
                start = starts[rows.start, cols.start]
                kept[start : start + tile.numel()] = tile.flatten()
            if rows.start == cols.start:
                tile = tile[hollow(torch.ones_like(tile), rows, cols) > 0]
            waiting.append(tile.flatten())
            if sum(map(len, waiting)) > _COUNTED:
                counts += torch.bincount(torch.cat(waiting), minlength=len(counts))
                waiting.clear()
        counts += torch.bincount(torch.cat(waiting), minlength=len(counts)) if waiting else 0
        filled = counts.nonzero()
        span = slice(int(filled[0]), int(filled[-1]) + 1)
        table = features.empty(len(counts))
        table[span] = _ranks(counts[span]).to(features.dtype)
        return table, kept if model < held else None

    with features.threads() as threads:
        tables = threads.each(rank, range(len(features)))

    def fill(model: int, rows: slice, cols: slice, tile: Tensor) -> None:
        table, kept = tables[model]
        if kept is None:
            found = cells(model, rows, cols).flatten()
        else:
            start = starts[rows.start, cols.start]
            found = kept[start : start + tile.numel()]
        torch.index_select(table, 0, found, out=tile.view(-1))

    found = products(features, fill)
    return found.pairs, found.norms


def _ranks(counts: Tensor) -> Tensor:
    """Centred mean ranks of the values of each cell, divided by how many values there are.

    A few neighbouring cells with values, between empty ones, hold one value that rounding parted.
    """
    total = counts.sum()
    filled = torch.cat([counts.new_zeros(1), (counts > 0).long(), counts.new_zeros(1)])
    edges = filled.diff()
    begins, ends = (edges == 1).nonzero()[:, 0], (edges == -1).nonzero()[:, 0]
    short = ends - begins <= _NEIGHBOURS
    before = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    ranks = (before[:-1] + before[1:]).double()
    for shift in range(_NEIGHBOURS):
        inside = short & (begins + shift < ends)
        cell = begins[inside] + shift
        ranks[cell] = (before[begins[inside]] + before[ends[inside]]).double()
    return (ranks - total) / (2 * total)


def _standardised(features: Features, model: int) -> Tensor:
    """Rows of features without their means and of length 1: r is a product of two of them."""
    x = features.read(model)
    length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    x -= x.mean(1, keepdim=True, dtype=torch.float64).to(x.dtype)
    spread = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    flat = (spread <= 1e-6 * length).flatten().nonzero()
    if len(flat):
        raise MergeloomError(
            f"{features.paths[model]}: row {int(flat[0])} (counted from 0) of the features of "
            f"{features.models[model]} has the same value everywhere, so that its correlation with "
            "other rows is undefined. Leave that row out of all files, or take cka_linear."
        )
    return x.div_(spread)


def _check_varied(features: Features, variances: Tensor, scales: Tensor) -> None:
    for model, flat in enumerate((variances <= 1e-12 * scales).tolist()):
        if flat:
            raise MergeloomError(
                f"{features.paths[model]}: all distances between rows of {features.models[model]} "
                "are the same, so that their correlation with others is undefined. Leave this "
                "model out, or take cka_linear."
            )
