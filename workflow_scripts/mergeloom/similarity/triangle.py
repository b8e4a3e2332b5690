"""One pass over the kernels of all models at once: products of all pairs, tile by tile.

A kernel is a symmetric n × n matrix per model. Only its strict upper triangle is made, in tiles
that stay in a core's cache; no kernel ever stands in memory whole. The tiles of all models at one
place are the rows of V [M, area], and V Vᵀ is what they add to the products of all pairs. Each
thread works on tiles of a model of its own.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mergeloom.similarity.features import Features

# Products are summed in the kernels' type over so many entries, and in float64 from there on.
_RUN = 4096

# Writes the tile of a model's kernel at some rows and columns into the tensor given last.
Fill = Callable[[int, slice, slice, Tensor], object]


@dataclass(frozen=True)
class Products:
    """What one pass over the kernels K_m of M models gives, all float64.

    pairs : Tensor [M - known, M], Σ_{i<j} K_ij L_ij for each new model and each model.
    norms : Tensor [M], Σ_{i<j} K_ij².
    sums : Tensor [M, n], Σ_{j≠i} K_ij, if they were asked for.
    """

    pairs: Tensor
    norms: Tensor
    sums: Tensor


def tiles(n: int, shape: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of tiles that cover the upper triangle of an n × n matrix.

    A tile with entries on or below the diagonal has it start in its upper left corner.
    """
    height, width = shape
    for top in range(0, n, height):
        for left in range(top, n, width):
            yield slice(top, min(top + height, n)), slice(left, min(left + width, n))


def hollow(tile: Tensor, rows: slice, columns: slice) -> Tensor:
    """Set what is on or below the diagonal of the matrix to zero, in place."""
    return tile.triu_(1) if rows.start == columns.start else tile


def products(features: Features, fill: Fill, *, sums: bool = False) -> Products:
    """Go through the tiles of all models' kernels once.

    Parameters
    ----------
    fill : writes the tile of a model's kernel, all of it; entries on and below the diagonal are
        not used.
    sums : whether row sums are wanted, too.
    """
    count, known, n = len(features), features.known, features.n
    height, width = (min(side, n) for side in features.tile)
    values = features.empty(count, _whole_runs(height * width))
    ones = features.empty(max(height, width)).fill_(1)
    pairs = features.zeros64(count - known, count)
    norms = features.zeros64(count)
    totals = features.zeros64(count, n if sums else 0)

    def fill_one(model: int) -> None:
        tile = values[model, :area].view(shape)
        fill(model, rows, columns, tile)
        hollow(tile, rows, columns)
        if sums:
            totals[model, rows] += tile @ ones[: shape[1]]
            totals[model, columns] += tile.T @ ones[: shape[0]]

    def multiply(runs: Tensor) -> tuple[Tensor, Tensor]:
        found = torch.bmm(runs[:, known:], runs.transpose(1, 2)).sum(0, dtype=torch.float64)
        own = runs[:, :known].square().sum(2).sum(0, dtype=torch.float64)
        return found, own

    with features.threads() as threads:
        for rows, columns in tiles(n, (height, width)):
            shape = (rows.stop - rows.start, columns.stop - columns.start)
            area = shape[0] * shape[1]
            used = _whole_runs(area)
            values[:, area:used] = 0
            threads.each(fill_one, features.by_width)
            runs = values[:, :used].view(count, -1, _RUN).transpose(0, 1)
            for found, own in threads.each(multiply, runs.tensor_split(threads.count)):
                pairs += found
                norms[:known] += own
    norms[known:] = pairs[:, known:].diagonal()
    return Products(pairs, norms, totals)


def _whole_runs(area: int) -> int:
    return -(-area // _RUN) * _RUN
