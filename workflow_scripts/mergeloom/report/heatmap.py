"""Heatmap: cosine similarity of the task vectors of a benchmark."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from mergeloom.errors import MergeloomError
from mergeloom.report import style

NEGATIVE = -0.05
"""A similarity below this makes the scale diverge from zero instead of rising from it."""


def heatmap(matrix: np.ndarray, tasks: Sequence[str], subject: str = "") -> Figure:
    """Draw cosine similarities, each cell with its number.

    Similarities of task vectors are small beside the diagonal's 1, so the colours span what stands
    off the diagonal, and the diagonal is left blank.

    Parameters
    ----------
    matrix : ndarray [T, T], symmetric, in [-1, 1].
    tasks : T names.

    Raises
    ------
    MergeloomError
        The matrix is not [T, T] or holds NaN or Inf.
    """
    count = len(tasks)
    matrix = np.asarray(matrix, dtype=float)
    if matrix.shape != (count, count) or not np.isfinite(matrix).all():
        raise MergeloomError(
            f"Similarity of the {count} tasks {', '.join(tasks)}: the matrix has shape "
            f"{list(matrix.shape)}{'' if np.isfinite(matrix).all() else ' and holds NaN or Inf'}; "
            f"expected finite values of shape [{count}, {count}].\n"
            "Compute it again from the task vectors of this benchmark."
        )
    between = matrix[~np.eye(count, dtype=bool)]
    size = 2.2 + max(0.42 * count, 1.6)
    with style.figure(size + 1, size, "Cosine similarity of task vectors", subject) as fig:
        axes = fig.add_subplot()
        colours = _colours(between)
        shown = np.ma.masked_where(np.eye(count, dtype=bool), matrix)
        # Quadrilaterals, not an image: they stay sharp in an SVG.
        mesh = axes.pcolormesh(shown, **colours, edgecolors="white", linewidth=1.2)
        _numbers(axes, mesh, matrix)
        axes.set_aspect("equal")
        axes.set_xticks(
            np.arange(count) + 0.5, tasks, rotation=45, ha="right", rotation_mode="anchor"
        )
        axes.set_yticks(np.arange(count) + 0.5, tasks)
        axes.tick_params(length=0)
        axes.invert_yaxis()
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        if between.size:
            axes.set_title(f"mean between tasks: {_short(between.mean())}", color=style.MUTED)
            bar = fig.colorbar(mesh, ax=axes, shrink=0.7, aspect=28)
            bar.outline.set_visible(False)
        return fig


def _colours(between: np.ndarray) -> dict[str, Any]:
    extent = max(0.05, float(np.abs(between).max())) if between.size else 1.0
    if between.size and between.min() < NEGATIVE:
        return {"cmap": "PuOr_r", "vmin": -extent, "vmax": extent}
    return {
        "cmap": "YlGnBu",
        "vmin": min(0.0, float(between.min())) if between.size else 0.0,
        "vmax": extent,
    }


def _numbers(axes: Axes, mesh: QuadMesh, matrix: np.ndarray) -> None:
    small = len(matrix) > 12
    for (row, column), value in np.ndenumerate(matrix):
        off = row != column
        red, green, blue, _ = mesh.to_rgba(value)
        dark = off and 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
        axes.text(
            column + 0.5,
            row + 0.5,
            _short(value) if off else "1",
            ha="center",
            va="center",
            fontsize=7 if small else 8.5,
            color="white" if dark else "#222222" if off else "#aaaaaa",
        )


def _short(value: float) -> str:
    text = f"{abs(value):.2f}".removeprefix("0")
    return f"−{text}" if value < 0 and text != ".00" else text
