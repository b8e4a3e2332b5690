"""Curves of adaptation: validation accuracy and entropy over steps, adapter by adapter."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mergeloom.report import style
from mergeloom.report.adaptive.look import head, legend, lines_of_legend, words_of_adaptation
from mergeloom.report.adaptive.study import AVERAGE, collapse
from mergeloom.report.results import Result

_HEADING: Final = "Adaptation, step by step"
_MEAN: Final[dict[str, Any]] = {"color": "#111111", "linewidth": 2.2, "zorder": 5}
_BEFORE: Final[dict[str, Any]] = {"color": "#8a8a8a", "linestyle": (0, (4, 1.6)), "linewidth": 1.2}
_FELL: Final[dict[str, Any]] = {
    "color": style.WARNING, "marker": "x", "ms": 6.5, "mew": 1.8, "ls": "", "zorder": 7,
}  # fmt: skip


def curves(
    adapted: Mapping[str, tuple[Result, pd.DataFrame]], tasks: Sequence[str], subject: str = ""
) -> Figure:
    """Draw how the adaptation of each adapter went: above validation accuracy, below entropy.

    Two panels per adapter; the average is bold, tasks are thin, the average before adaptation is a
    dashed line across, the step that was taken a dot. A task that collapsed is thicker and ends its
    way in a red cross there; the head says so, in red where the average did.

    Parameters
    ----------
    adapted : name as it is shown → its result, and its curve (columns step, task, entropy,
        val_accuracy). Those without rows are left out.
    """
    adapted = {name: (result, curve) for name, (result, curve) in adapted.items() if len(curve)}
    if not adapted:
        with style.figure(6, 1.6, _HEADING, subject) as fig:
            return style.say(fig, "No adapter of this study is trained.")
    rows, columns = style.grid(len(adapted), 4)
    width = max(2.7 * columns + 0.6, 5.2)
    key = _key(adapted, tasks)
    height = (4.0 if rows == 1 else 3.8) * rows + 0.9 + 0.2 * lines_of_legend(key, width)
    with style.figure(width, height, _HEADING, subject) as fig:
        panels = fig.subplots(
            2 * rows,
            columns,
            squeeze=False,
            height_ratios=[3, 2] * rows,
        )
        for index, (adapter, (result, curve)) in enumerate(adapted.items()):
            row, column = divmod(index, columns)
            pair = panels[2 * row : 2 * row + 2, column]
            _adapter(pair, result, curve, tasks)
            note, fell = words_of_adaptation(result), _words_of_collapse(result)
            if collapse(result).average:
                head(pair[0], adapter, note, 2.4, warning=fell)
            else:
                head(pair[0], adapter, "\n".join(filter(None, (note, fell))), 2.4)
        for index in range(len(adapted), rows * columns):
            row, column = divmod(index, columns)
            for axes in panels[2 * row : 2 * row + 2, column]:
                axes.set_visible(False)
        _align(panels[0::2], _range(adapted, "val_accuracy"), "validation accuracy")
        highest = max(curve["entropy"].max() for _, curve in adapted.values())
        _align(panels[1::2], (0, 1.06 * highest), "entropy, nats")
        legend(fig, key)
        return fig


def _adapter(
    panels: Any,
    result: Result,
    curve: pd.DataFrame,
    tasks: Sequence[str],
) -> None:
    fell = collapse(result).tasks
    chosen = (result.get("adaptation") or {}).get("chosen")
    for axes, column in zip(panels, ("val_accuracy", "entropy"), strict=True):
        for index, task in enumerate(tasks):
            of_task = curve[(curve["task"] == task)].dropna(subset=[column])
            axes.plot(of_task["step"], of_task[column], **_thin(index, task in fell))
            if task in fell:
                end = of_task[of_task["step"] == chosen]
                axes.plot(end["step"], end[column], **_FELL)
        mean = curve[curve["task"] == AVERAGE].dropna(subset=[column])
        axes.plot(mean["step"], mean[column], **_MEAN)
        before = mean.loc[mean["step"] == 0, column]
        if not before.empty:
            axes.axhline(before.iloc[0], **_BEFORE)
        taken = mean[mean["step"] == chosen]
        if not taken.empty:
            axes.plot(taken["step"], taken[column], "o", ms=5.5, color="#111111", zorder=6)
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 2.5, 5, 10]))
    panels[0].yaxis.set_major_formatter(style.percent())
    panels[0].tick_params(labelbottom=False)
    panels[1].set_xlabel("step")


def _range(adapted: Mapping[str, tuple[Result, pd.DataFrame]], column: str) -> tuple[float, float]:
    values = pd.concat([curve[column] for _, curve in adapted.values()])
    margin = 0.04 * max(values.max() - values.min(), 0.01)
    return float(values.min() - margin), float(values.max() + margin)


def _align(panels: Any, limits: tuple[float, float], words: str) -> None:
    """One scale for all adapters: they are compared; its numbers stand at the left."""
    for row in panels:
        for axes in row:
            axes.set_ylim(limits)
            axes.tick_params(labelleft=False)
        row[0].tick_params(labelleft=True)
        row[0].set_ylabel(words)


def _words_of_collapse(result: Result) -> str:
    average, tasks = collapse(result)
    if not average and not tasks:
        return ""
    of_tasks = "".join(tasks) if len(tasks) < 2 else f"{len(tasks)} tasks"
    return f"collapsed: {', '.join(filter(None, [AVERAGE if average else '', of_tasks]))}"


def _thin(index: int, fell: bool) -> dict[str, Any]:
    look = style.series(index)
    width, height = (1.8, 4) if fell else (0.9, 2)
    return {
        "color": look["color"], "linestyle": look["linestyle"], "linewidth": width, "zorder": height
    }  # fmt: skip


def _key(adapted: Mapping[str, tuple[Result, pd.DataFrame]], tasks: Sequence[str]) -> list[Line2D]:
    handles = [
        Line2D([], [], **_MEAN, label=AVERAGE),
        Line2D([], [], **_BEFORE, label="average before"),
        Line2D([], [], color="#111111", marker="o", ms=5.5, ls="", label="step taken"),
    ]
    handles += [
        Line2D([], [], **_thin(index, fell=False), label=task) for index, task in enumerate(tasks)
    ]
    if any(collapse(result).tasks for result, _ in adapted.values()):
        handles.append(Line2D([], [], **_FELL, label="a task that collapsed"))
    return handles
