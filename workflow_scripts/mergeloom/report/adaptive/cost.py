"""Accuracy against cost: what models store, and what of it is trained."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from mergeloom.report import style
from mergeloom.report.adaptive.look import MARKERS, WORDS, legend, looks, spread
from mergeloom.report.adaptive.study import label
from mergeloom.report.adaptive.text import shortened

_HEADING: Final = "Accuracy against cost"
_LINE: Final = 0.165  # inches between labels


def cost(frame: pd.DataFrame, subject: str = "") -> Figure:
    """Draw average accuracy against stored (left) and trainable parameters (right).

    A point per model, at one height in both panels; labels stand in a column beside them, in the
    order of accuracy, so that none meets another. Models that collapsed on average are red there;
    of others, the tasks that they collapsed on stand behind in grey.

    Parameters
    ----------
    frame : what `mergeloom.report.adaptive.tables.summary` returns.
    """
    rows: list[Any] = frame.to_dict("records")
    height = max(3.9, _LINE * len(rows) + 1.9)
    with style.figure(9.2, height, _HEADING, subject) as fig:
        left, right = fig.subplots(1, 2, sharey=True)
        found = looks([(row["kind"], row["model"]) for row in rows])
        for axes, what in ((left, "stored"), (right, "trainable")):
            values = frame[f"{what}_parameters"].to_numpy(dtype=float)
            places = _logarithmic(axes, values)
            for row, look, x in zip(rows, found, places, strict=True):
                axes.plot(x, row["accuracy"], **look, clip_on=False, zorder=3)
            axes.set_xlabel(f"{what} parameters")
        left.set_ylabel("average test accuracy")
        left.yaxis.set_major_formatter(style.percent())
        left.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        low, high = frame["accuracy"].min(), frame["accuracy"].max()
        margin = max(0.05 * (high - low), 0.005)
        left.set_ylim(low - margin, high + margin)
        _labels(right, rows, found, height)
        if key := _key(rows):
            legend(fig, key)
        return fig


def _logarithmic(axes: Axes, values: np.ndarray) -> np.ndarray:
    """Decades on x; 0 has a place of its own left of them. Returns where the values stand."""
    some = values > 0
    logs = np.log10(values[some])
    low, high = (logs.min(), logs.max()) if some.any() else (0.0, 0.0)
    zero = float(np.floor(low) - 1)
    places = np.full(len(values), zero)
    places[some] = logs
    start, stop = places.min(), places.max()
    margin = 0.06 * max(stop - start, 0.5)
    ticks = _ticks(low, high, margin) if some.any() else []
    axes.xaxis.set_major_locator(FixedLocator([*([] if some.all() else [zero]), *ticks]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda log, _: "none" if log == zero else _count(10**log))
    )
    axes.set_xlim(start - margin, stop + margin)
    return places


def _ticks(low: float, high: float, margin: float) -> list[float]:
    """Logarithms of round numbers: decades, or what is between them where there is but one."""
    first, last = int(np.ceil(low - margin)), int(np.floor(high + margin))
    decades = [float(decade) for decade in range(first, last + 1)]
    if len(decades) > 1:
        return decades[:: -(-len(decades) // 6)]
    for digits in ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)):
        near = [d + np.log10(k) for d in range(int(np.floor(low)), last + 1) for k in digits]
        ticks = [log for log in near if low - margin <= log <= high + margin]
        if len(ticks) > 1:
            return ticks
    return [low]


def _count(value: float) -> str:
    """A number of parameters in few letters: 300k, 1.2M, 3B."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.0f}"


def _labels(
    axes: Axes, rows: Sequence[Any], found: Sequence[dict[str, Any]], height: float
) -> None:
    """Names in a column right of a panel, each joined to the height of its point."""
    inches = height - 1.55  # of the panel, about
    low, high = axes.get_ylim()
    heights = [(row["accuracy"] - low) / (high - low) for row in rows]
    placed = spread(heights, _LINE / inches, 0.0, 1.0)
    for row, look, y, at in zip(rows, found, heights, placed, strict=True):
        axes.plot(
            [1.0, 1.03, 1.10, 1.13], [y, y, at, at], transform=axes.transAxes, clip_on=False,
            color="#BBBBBB", linewidth=0.7, zorder=1,
        )  # fmt: skip
        axes.plot(1.16, at, transform=axes.transAxes, clip_on=False, **look | {"markersize": 5})
        name = label(row["model"], row["transferred_from"])
        fell = bool(row["collapsed"])
        text = axes.annotate(
            f"{name}{' (collapsed)' if fell else ''}  {100 * row['accuracy']:.1f}",
            (1.19, at),
            xycoords="axes fraction",
            va="center",
            fontsize=8,
            color=style.WARNING if fell else "#222222",
            annotation_clip=False,
        )
        if row["collapsed_tasks"] and not fell:
            axes.annotate(
                f"({shortened(row['collapsed_tasks'])})",
                (1, 0.5),
                xycoords=text,
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                color=style.MUTED,
                annotation_clip=False,
            )


def _key(rows: Sequence[Any]) -> list[Line2D]:
    kinds = dict.fromkeys(row["kind"] for row in rows)
    handles = [
        Line2D([], [], color="#555555", marker=MARKERS[kind], linestyle="", label=WORDS[kind])
        for kind in kinds
        if kind in WORDS
    ]
    if any(row["collapsed_tasks"] and not row["collapsed"] for row in rows):
        handles.append(Line2D([], [], linestyle="", label="(tasks): collapsed on these alone"))
    return handles
