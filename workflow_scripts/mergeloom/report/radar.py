"""Radar chart: normalized accuracy of every merger over the tasks of a benchmark."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.projections.polar import PolarAxes
from matplotlib.ticker import PercentFormatter

from mergeloom.report import style
from mergeloom.report.tables import mergers_of, reference, tasks_of

TOGETHER = 6
"""More mergers than this get a radar each: as many outlines in one could not be told apart."""


def radar(frame: pd.DataFrame, subject: str = "") -> Figure:
    """Draw a summary (see `mergeloom.report.tables.summary`) as a radar chart.

    A spoke per task; the fine-tuned models are the ring at 100 %, zero-shot is the grey area. Up to
    six mergers share one radar; more get a small one each, behind which the others stay as a ghost.
    """
    tasks, mergers = tasks_of(frame), mergers_of(frame)
    values = mergers[[f"{task}_normalized" for task in tasks]].to_numpy(dtype=float)
    zeroshot = reference(frame, "zeroshot")
    base = None
    if zeroshot is not None:
        base = zeroshot[[f"{task}_normalized" for task in tasks]].to_numpy(dtype=float)
    limits = _limits(values if base is None else np.vstack([values, base]))
    draw = _together if len(mergers) <= TOGETHER else _apart
    return draw(tasks, mergers, values, base, limits, subject)


def _together(
    tasks: list[str],
    mergers: pd.DataFrame,
    values: np.ndarray,
    base: np.ndarray | None,
    limits: tuple[float, float],
    subject: str,
) -> Figure:
    width = 7.2 + 0.17 * max(map(len, tasks))  # room for names on both sides
    with style.figure(width, 6.4, _HEADING, subject) as fig:
        axes = _axes(fig, (1, 1, 1), tasks, limits)
        _references(axes, base)
        for index, row in enumerate(values):
            _outline(axes, row, _entry(mergers.iloc[index]), **style.series(index))
        fig.legend(loc="outside right center", labelspacing=0.9)
        return fig


def _apart(
    tasks: list[str],
    mergers: pd.DataFrame,
    values: np.ndarray,
    base: np.ndarray | None,
    limits: tuple[float, float],
    subject: str,
) -> Figure:
    rows, columns = style.grid(len(mergers), 4)
    with style.figure(3.35 * columns, 3.15 * rows + 1.1, _HEADING, subject) as fig:
        for index, row in enumerate(values):
            axes = _axes(fig, (rows, columns, index + 1), tasks, limits, small=True)
            first = index == 0
            _references(axes, base, labelled=first)
            for other in np.delete(values, index, axis=0):
                _outline(axes, other, "", color="#d0d0d0", linewidth=0.6)
            _outline(axes, row, "", color=style.series(0)["color"])
            axes.set_title(_entry(mergers.iloc[index], lines=1), loc="center", pad=18)
            if first:
                axes.plot([], [], color="#d0d0d0", linewidth=1, label="the other mergers")
                axes.plot([], [], color=style.series(0)["color"], label="the merger named above")
        fig.legend(loc="outside lower center", ncols=4)
        return fig


_HEADING = "How much of each task's fine-tuned accuracy a merged model keeps"


def _limits(values: np.ndarray) -> tuple[float, float]:
    # Starting at the tenth below the worst value shows differences; the rings carry their numbers.
    low = np.floor(np.nanmin(values) * 10 - 0.5) / 10 if values.size else 0.0
    high = np.nanmax(values) if values.size else 1.0
    return (0.0 if low < 0.25 else float(low)), max(1.02, float(high) + 0.02)


def _axes(
    fig: Figure,
    position: tuple[int, int, int],
    tasks: list[str],
    limits: tuple[float, float],
    small: bool = False,
) -> PolarAxes:
    axes = fig.add_subplot(*position, projection="polar")
    assert isinstance(axes, PolarAxes)
    axes.set_theta_zero_location("N")
    axes.set_theta_direction(-1)
    axes.set_ylim(*limits)
    step = 0.1 if limits[1] - limits[0] <= 0.6 else 0.2
    axes.set_yticks(np.arange(limits[0] + step, 1 - step / 2, step))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_rlabel_position(180 / max(len(tasks), 1))
    axes.tick_params(axis="y", labelsize=6 if small else 7.5, labelcolor=style.MUTED)
    axes.spines["polar"].set_visible(False)
    angles = _angles(len(tasks))
    axes.set_xticks(angles)
    axes.set_xticklabels([])
    for angle, task in zip(angles, tasks, strict=True):
        side = np.sin(angle)
        axes.annotate(
            task,
            (angle, limits[1]),
            xytext=(5 * side, 5 * np.cos(angle)),
            textcoords="offset points",
            ha="center" if abs(side) < 0.1 else "left" if side > 0 else "right",
            va="center" if abs(side) > 0.1 else "bottom" if np.cos(angle) > 0 else "top",
            fontsize=6.5 if small else 9.5,
        )
    return axes


def _references(axes: PolarAxes, base: np.ndarray | None, labelled: bool = True) -> None:
    circle = np.linspace(0, 2 * np.pi, 361)
    name = style.label("finetuned") if labelled else ""
    axes.plot(circle, np.ones_like(circle), **style.FINETUNED, label=name)
    if base is not None:
        name = style.label("zeroshot") if labelled else ""
        _outline(axes, base, name, **style.ZEROSHOT)
        axes.fill(_angles(len(base)), base, color=style.ZEROSHOT["color"], alpha=0.16, linewidth=0)


def _outline(axes: PolarAxes, values: np.ndarray, name: str, **look: Any) -> None:
    angles = _angles(len(values))
    closed = np.append(angles, angles[:1]), np.append(values, values[:1])
    axes.plot(*closed, label=name or "_", **look)


def _angles(count: int) -> np.ndarray:
    return np.linspace(0, 2 * np.pi, count, endpoint=False)


def _entry(merger: pd.Series, lines: int = 2) -> str:
    separator = "\n" if lines == 2 else "   "
    average = f"average {100 * merger['normalized_accuracy']:.1f}%"
    return f"{style.label(merger['merger'])}{separator}{average}"
