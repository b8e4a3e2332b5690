"""Log-trace against accuracy of the merged model, over all conditions, selections and seeds."""

from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mergeloom.report import style
from mergeloom.report.conditions.correlation import (
    FEWEST,
    MERGED,
    Correlation,
    points_of,
    rank_correlation,
    spearman,
)
from mergeloom.report.conditions.design import BASE, BASE_COLOR, Design
from mergeloom.report.conditions.panels import key_of_selections, mark
from mergeloom.report.conditions.study import FINETUNED

_HEADING: Final = "Log-trace against accuracy of the merged model"


def log_trace_accuracy(
    frame: pd.DataFrame, design: Design, merger: str, subject: str = ""
) -> Figure:
    """Draw every collection of experts as a point: colour by factor, marker by selection.

    Left the log-trace of the fine-tuned models, right that of the merged model, averaged over
    tasks; upwards the average test accuracy of the merged model. Above: the rank correlation, see
    `mergeloom.report.conditions.correlation`.

    Parameters
    ----------
    frame : what `mergeloom.report.conditions.tidy.tidy` returns.
    """
    points = points_of(frame, merger)
    colors, hollow = _looks(design)
    subject = (
        f"{subject}: averages over tasks, a point per condition, selection and seed"
        if subject
        else ""
    )
    with style.figure(9, 5.6, _HEADING, subject) as fig:
        left, right = fig.subplots(1, 2, sharey=True)
        for axes, column, title in (
            (left, FINETUNED, "fine-tuned models"),
            (right, MERGED, "merged model"),
        ):
            found = rank_correlation(
                points[column].to_numpy(), points["accuracy"].to_numpy(), list(points["condition"])
            )
            style.title(axes, title, "\n".join([_words(found), *_each(points, column)]))
            for condition, selection, x, y in points[
                ["condition", "selection", column, "accuracy"]
            ].itertuples(index=False):
                color = colors[condition][1]
                axes.plot(x, y, **mark(selection, color, condition in hollow))
            axes.set_xlabel(f"log-trace, {title}")
            axes.xaxis.set_major_locator(MaxNLocator(6))
        left.set_ylabel(f"test accuracy, {style.label(merger)}")
        left.yaxis.set_major_formatter(style.percent())
        left.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        handles = _key(design, colors, list(dict.fromkeys(points["selection"])))
        kinds = 2 + (len(design.variants) > 1)
        fig.legend(handles=handles, loc="outside lower center", ncols=kinds)
        return fig


def _words(found: Correlation) -> str:
    if found.points < FEWEST:
        return f"rank correlation: needs {FEWEST} points, there are {found.points}"
    if np.isnan(found.value):
        return "rank correlation: none, since all points are alike in one of the two"
    conditions = f"{found.conditions} condition" + ("s" if found.conditions > 1 else "")
    if np.isnan(found.low):
        return f"ρ = {found.value:.2f} of {found.points} points of {conditions}: no interval"
    interval = f"95% interval {found.low:.2f} to {found.high:.2f}".replace("-", "−")
    value = f"Spearman's ρ = {found.value:.2f}".replace("-", "−")
    few = "; few conditions: not to be relied on" if found.conditions < FEWEST else ""
    return f"{value}, {interval}\n({found.points} points of {conditions}{few})"


def _each(points: pd.DataFrame, column: str) -> list[str]:
    """The rank correlation within each selection: together, it also shows how selections differ."""
    values = [
        f"{selection} {spearman(of[column], of['accuracy']):.2f}"
        for selection, of in points.groupby("selection", sort=False)
        if len(of) >= FEWEST
    ]
    return [f"within a selection: {', '.join(values)}".replace("-", "−")] if values else []


def _is_base(look: tuple[str, str]) -> bool:
    return look[0] == BASE


def _looks(design: Design) -> tuple[dict[str, tuple[str, str]], set[str]]:
    """The factor and colour of every condition, and which are of another variant than the first."""
    looks: dict[str, tuple[str, str]] = {}
    hollow = set()
    for index, group in enumerate(design.groups):
        for level in group.levels:
            look = (
                (BASE, BASE_COLOR) if level.is_base else (group.title, style.series(index)["color"])
            )
            for variant, condition in level.conditions.items():
                looks[condition] = look
                if variant != design.variants[0]:
                    hollow.add(condition)
    return looks, hollow


def _key(design: Design, colors: dict[str, tuple[str, str]], selections: list[str]) -> list[Line2D]:
    def handle(label: str, **look: Any) -> Line2D:
        return Line2D([], [], label=label, **{"linestyle": "", "color": "#555555", **look})

    factors = list(dict.fromkeys([*filter(_is_base, colors.values()), *colors.values()]))
    kinds = [
        [handle(factor, color=color, linestyle="-", linewidth=4) for factor, color in factors],
        key_of_selections(selections),
        [
            handle(variant, marker="D", markerfacecolor="white" if index else "#555555")
            for index, variant in enumerate(design.variants)
            if len(design.variants) > 1
        ],
    ]
    # A column for each kind: the shorter are filled up.
    rows = max(map(len, kinds))
    empty = Line2D([], [], linestyle="", label=" ")
    return [h for kind in kinds if kind for h in [*kind, *[empty] * (rows - len(kind))]]
