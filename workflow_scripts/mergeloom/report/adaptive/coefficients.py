"""Mean coefficients by task of the inputs and expert: does an adapter find the task?"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from mergeloom.report import style
from mergeloom.report.adaptive.look import head, last_of_columns

SAME: Final = "the same for all inputs"
_HEADING: Final = "Mean coefficients: which experts an input gets"


def matrix(coefficients: pd.DataFrame, tasks: Sequence[str]) -> np.ndarray:
    """Mean over layers of the mean over inputs: float64 [tasks of inputs, experts]; NaN where none.

    Parameters
    ----------
    coefficients : columns task, expert, layer, mean; a row per parameter where they differ by it.
    """
    found = coefficients.groupby(["task", "expert"], sort=False)["mean"].mean()
    return np.array([[found.get((task, expert), np.nan) for expert in tasks] for task in tasks])


def hits(coefficients: np.ndarray) -> int:
    """Of how many tasks the largest coefficient, and no other, is that of its own expert."""
    return sum(
        bool(np.isfinite(row).all() and row[i] > np.delete(row, i).max(initial=-np.inf))
        for i, row in enumerate(coefficients)
    )


def coefficients(
    adapters: Mapping[str, pd.DataFrame], tasks: Sequence[str], subject: str = ""
) -> Figure:
    """Draw a heatmap per adapter: a row per task of the inputs, a column per expert.

    All panels share a scale that is white at 0. The note of a panel says of how many tasks the
    largest coefficient is that of the own expert.

    Parameters
    ----------
    adapters : name as it is shown → its coefficients, see `matrix`. Adapters without are left out.
    """
    shown = {name: matrix(found, tasks) for name, found in adapters.items() if len(found)}
    if not shown:
        with style.figure(6, 1.6, _HEADING, subject) as fig:
            return style.say(fig, "No adapter of this study has coefficients of the experts.")
    count = len(tasks)
    rows, columns = style.grid(len(shown), 4)
    side = min(max(0.3 * count, 1.5), 2.8)
    longest = 0.075 * max(map(len, tasks))
    width = columns * (side + 0.35) + longest + 1.3
    height = rows * (side + 0.85) + 0.75 * longest + 0.9
    extent = max(float(np.nanmax(np.abs(values))) for values in shown.values()) or 1.0
    low = -extent if min(float(np.nanmin(values)) for values in shown.values()) < 0 else 0.0
    cmap = "RdBu" if low else "Blues"
    with style.figure(max(width, 4.6), height, _HEADING, subject) as fig:
        panels = fig.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for axes, (name, values) in zip(panels.flat, shown.items(), strict=False):
            # Quadrilaterals, not an image: they stay sharp in an SVG.
            mesh = axes.pcolormesh(
                np.ma.masked_invalid(values), cmap=cmap, vmin=low, vmax=extent,
                edgecolors="white", linewidth=0.8,
            )  # fmt: skip
            if count <= 10:
                _numbers(axes, mesh, values)
            _frame(axes, values, tasks)
            head(axes, name, _note(values), side)
        for axes in panels.flat[len(shown) :]:
            axes.set_visible(False)
        for axes in last_of_columns(panels, len(shown)):
            axes.tick_params(labelbottom=True)
        for row in panels:
            row[0].set_ylabel("task of the inputs")
        fig.supxlabel("expert", fontsize=9)
        bar = fig.colorbar(mesh, ax=panels, shrink=min(1.0, 3 / height), aspect=24)
        bar.set_label("coefficient", labelpad=8)
        bar.outline.set_visible(False)
        return fig


def _frame(axes: Axes, values: np.ndarray, tasks: Sequence[str]) -> None:
    count = len(tasks)
    size = 8 if count <= 12 else 6.5
    slanted: dict[str, Any] = (
        {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if count <= 12 else {}
    )
    axes.set_xticks(np.arange(count) + 0.5, tasks, fontsize=size, **slanted or {"rotation": 90})
    axes.set_yticks(np.arange(count) + 0.5, tasks, fontsize=size)
    axes.tick_params(length=0)
    axes.set_ylim(count, 0)
    axes.set_aspect("equal")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def _note(values: np.ndarray) -> str:
    if np.allclose(values, values[0], equal_nan=True):
        return SAME
    return f"own expert largest: {hits(values)} of {len(values)}"


def _numbers(axes: Axes, mesh: QuadMesh, values: np.ndarray) -> None:
    size = 7.5 if len(values) <= 6 else 6
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            red, green, blue, _ = mesh.to_rgba(value)
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            axes.text(
                column + 0.5,
                row + 0.5,
                _short(value),
                ha="center",
                va="center",
                fontsize=size,
                color="white" if dark else "#222222",
            )


def _short(value: float) -> str:
    text = f"{abs(value):.2f}"
    text = text.removeprefix("0") if abs(value) < 10 else f"{abs(value):.0f}"
    return f"−{text}" if value < 0 and text != ".00" else text
