"""Validation accuracy over alpha under every condition, and the alphas chosen."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mergeloom.report import style
from mergeloom.report.conditions.design import Design
from mergeloom.report.conditions.panels import (
    dashes,
    key_of_levels,
    key_of_variants,
    panels,
    words_of,
)
from mergeloom.report.results import Result

_HEADING: Final = "Validation accuracy over α under training conditions"

Searched = dict[tuple[str, str, str], list[Result]]  # merger, condition, selection -> by seed


def by_condition(
    collections: Iterable[Mapping[str, Any]], mergers: Sequence[str], results: Iterable[Result]
) -> Searched:
    """Sort results, of the mergers of each collection in turn, for `alpha_curves`."""
    found: Searched = {}
    each = iter(results)
    for given in collections:
        for merger in mergers:
            key = (merger, given["condition"], given["selection"])
            found.setdefault(key, []).append(next(each))
    return found


def alpha_curves(
    searched: Searched,
    design: Design,
    selections: Sequence[str],
    mergers: Sequence[str],
    subject: str = "",
) -> Figure:
    """Draw average normalised validation accuracy over alpha.

    A row of panels per merger and selection, a panel per factor; a line is the mean over seeds, its
    band ± their standard deviation, and a dot the alpha chosen with one seed, hollow at the edge
    of the grid. A merger whose alpha was not searched is left out.

    Parameters
    ----------
    searched : the results of every merger, condition and selection, one per seed.
    """
    rows = [
        (merger, selection)
        for merger in mergers
        if all("curve" in (result["alpha"] or {}) for result in _of(searched, merger))
        for selection in selections
    ]
    seeds = max(map(len, searched.values()))
    spread = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    subject = f"{subject}: average over tasks, {spread}" if subject else ""
    width = max(6.5, 3.1 * len(design.groups) + 0.6)
    with style.figure(width, 2.2 * max(len(rows), 1) + 1.7, _HEADING, subject) as fig:
        if not rows:
            return style.say(fig, "No merger's alpha was searched on validation images.")
        grid = panels(fig, len(rows), design, by_levels=False, sharex=True, sharey="row")
        titles = words_of([selection for _, selection in rows])
        for axes_of_row, (merger, selection), words in zip(grid, rows, titles, strict=True):
            for axes, group in zip(axes_of_row, design.groups, strict=True):
                for level in group.levels:
                    for variant, condition in level.conditions.items():
                        results = searched[merger, condition, selection]
                        _curve(axes, results, level.color, dashes(design, variant))
                axes.yaxis.set_major_formatter(style.percent())
                axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
            title = f"{style.label(merger)}: {words}" if len(mergers) > 1 else words
            axes_of_row[0].set_title(title, fontsize=9, fontweight="bold")
            axes_of_row[0].set_ylabel("normalised accuracy")
        for axes in grid[-1]:
            axes.set_xlabel("α")
        for axes, group in zip(grid[0], design.groups, strict=True):
            key_of_levels(axes, group, above=24)
        chosen = Line2D(
            [], [], color="#555555", marker="o", linestyle="", label="α chosen (each seed)"
        )
        handles = [chosen, *key_of_variants(design)]
        fig.legend(handles=handles, loc="outside lower center", ncols=3)
        return fig


def _of(searched: Searched, merger: str) -> list[Result]:
    return [result for key, of in searched.items() if key[0] == merger for result in of]


def _curve(axes: Axes, results: Sequence[Result], color: str, dash: Any) -> None:
    curves = [
        {point["alpha"]: point["normalized_accuracy"] for point in result["alpha"]["curve"]}
        for result in results
    ]
    # A search with patience ends where it likes: the mean is over alphas that all seeds have seen.
    steps = sorted(set.intersection(*map(set, curves)))
    values = np.array([[curve[alpha] for alpha in steps] for curve in curves])
    mean = values.mean(axis=0)
    axes.plot(steps, mean, color=color, linestyle=dash, linewidth=1.2)
    if len(values) > 1:
        sd = values.std(axis=0, ddof=1)
        axes.fill_between(steps, mean - sd, mean + sd, color=color, alpha=0.15, linewidth=0)
    for result, curve in zip(results, curves, strict=True):
        chosen = result["alpha"]["value"]
        at_edge = len(curve) > 1 and chosen in (min(curve), max(curve))
        axes.plot(
            chosen, np.interp(chosen, steps, mean),
            marker="o", markersize=5, color=color, markeredgewidth=0.6 + 0.5 * at_edge, zorder=3,
            markerfacecolor="white" if at_edge else color,
            markeredgecolor=color if at_edge else "white",
        )  # fmt: skip
