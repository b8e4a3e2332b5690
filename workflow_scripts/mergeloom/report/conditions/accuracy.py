"""Accuracy against condition: single task, task addition, scaled single task."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mergeloom.report import style
from mergeloom.report.conditions.design import Design, Group
from mergeloom.report.conditions.panels import panels, words_of
from mergeloom.report.conditions.study import FINETUNED
from mergeloom.report.conditions.tables import Numbers
from mergeloom.report.conditions.tidy import ZEROSHOT, scaled

_HEADING: Final = "Test accuracy against training conditions"


def accuracy(
    summary: pd.DataFrame,
    design: Design,
    selections: Sequence[str],
    mergers: Sequence[str],
    subject: str = "",
) -> Figure:
    """Draw average test accuracies: a row of panels per selection, a panel per factor.

    The values of a factor stand in order, the base's among them. A point is the mean over seeds,
    its bar ± their standard deviation. What is crossed with the factors is hollow and dashed.

    Parameters
    ----------
    summary : what `mergeloom.report.conditions.tidy.over_seeds` returns.
    """
    numbers = Numbers(summary)
    models = _models(numbers, mergers)
    seeds = int(summary["seeds"].max())
    levels = sum(len(group.levels) for group in design.groups)
    width = max(6.5, 1.5 + 0.42 * levels * max(1, len(design.variants) / 1.6))
    spread = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    subject = f"{subject}: average over tasks, {spread}" if subject else ""
    with style.figure(width, 2.1 * len(selections) + 1.7, _HEADING, subject) as fig:
        grid = panels(fig, len(selections), design, by_levels=True, sharex="col", sharey=True)
        for row, (selection, words) in enumerate(
            zip(selections, words_of(selections), strict=True)
        ):
            for axes, group in zip(grid[row], design.groups, strict=True):
                _panel(axes, numbers, design, group, selection, models)
            grid[row, 0].set_title(words, fontsize=9, fontweight="bold")
            grid[row, 0].set_ylabel("test accuracy")
        for axes, group in zip(grid[-1], design.groups, strict=True):
            axes.set_xlabel(group.title)
        fig.legend(
            handles=_key(design, models), loc="outside lower center", ncols=max(2, int(width / 2.6))
        )
        return fig


def _models(numbers: Numbers, mergers: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Look of every model."""
    merged = {m: style.series(i) | {"marker": "s"} for i, m in enumerate(mergers)}
    names = [scaled(merger) for merger in mergers if numbers.has(scaled(merger))]
    single = {m: style.series(len(mergers) + i) | {"marker": "^"} for i, m in enumerate(names)}
    return {FINETUNED: {**style.FINETUNED, "marker": "o"}, **single, **merged}


def _panel(
    axes: Axes,
    numbers: Numbers,
    design: Design,
    group: Group,
    selection: str,
    models: Mapping[str, dict[str, Any]],
) -> None:
    level = numbers.get(("", ""), ZEROSHOT, "accuracy", "test")[0]
    axes.axhline(level, **style.ZEROSHOT)
    count = len(design.variants)
    for place, (model, look) in enumerate(models.items()):
        aside = min(0.05, 0.15 / len(models)) * (place - (len(models) - 1) / 2)
        for index, variant in enumerate(design.variants):
            found = [
                (
                    position,
                    *numbers.get((level.conditions[variant], selection), model, "accuracy", "test"),
                )
                for position, level in enumerate(group.levels)
                if variant in level.conditions
            ]
            x, mean, sd = np.array(found, dtype=float).reshape(-1, 3).T
            axes.errorbar(
                x + 0.22 * (index - (count - 1) / 2) + aside,
                mean,
                np.nan_to_num(sd) if np.isfinite(sd).any() else None,
                color=look["color"],
                marker=look["marker"],
                markersize=4.5,
                markerfacecolor="white" if index else look["color"],
                linestyle=style.DASHES[index % len(style.DASHES)] if group.is_numeric else "",
                linewidth=1,
                elinewidth=1,
                capsize=2,
            )
    axes.set_xticks(range(len(group.levels)), [_tick(level) for level in group.levels])
    axes.set_xlim(-0.6, len(group.levels) - 0.4)
    axes.grid(axis="x", visible=False)
    axes.set_ylim(top=1.02)
    axes.yaxis.set_major_formatter(style.percent())
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))


def _tick(level: Any) -> str:
    return f"{level.label}\n(base)" if level.is_base and level.label != "base" else level.label


def _key(design: Design, models: Mapping[str, dict[str, Any]]) -> list[Line2D]:
    names = {FINETUNED: "single task (fine-tuned)"}
    handles = [
        Line2D(
            [],
            [],
            **look | {"linewidth": 1, "linestyle": "-"},
            label=names.get(model, _name(model)),
        )
        for model, look in models.items()
    ]
    handles.append(Line2D([], [], **style.ZEROSHOT, label=style.label(ZEROSHOT)))
    if len(design.variants) > 1:
        for index, variant in enumerate(design.variants):
            handles.append(
                Line2D(
                    [], [],
                    color="#555555",
                    linestyle=style.DASHES[index % len(style.DASHES)],
                    linewidth=1,
                    marker="o",
                    markerfacecolor="white" if index else "#555555",
                    label=variant,
                )
            )  # fmt: skip
    return handles


def _name(model: str) -> str:
    merger = model.removesuffix(".scaled")
    if merger != model:
        return f"scaled single task: {style.label(merger)}"
    return f"merged: {style.label(merger)}"
