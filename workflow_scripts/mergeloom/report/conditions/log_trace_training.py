"""Log-trace of the Fisher information along training, with the epochs that selections take."""

from collections.abc import Mapping, Sequence
from typing import Final

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mergeloom.report import style
from mergeloom.report.conditions.design import Design
from mergeloom.report.conditions.panels import (
    dashes,
    key_of_levels,
    key_of_selections,
    key_of_variants,
    mark,
    panels,
    row_title,
)
from mergeloom.report.conditions.study import selected_row

_HEADING: Final = "Log-trace along training"


def log_trace_training(
    histories: Mapping[str, Mapping[str, pd.DataFrame]],
    design: Design,
    selections: Sequence[str],
    seed: int,
    subject: str = "",
) -> Figure:
    """Draw the log-trace over the epochs: a row of panels per task, a panel per factor.

    Of one seed, because the epoch that a selection takes is one of a run, and the mean of several
    runs has none. The band is ± the estimate's standard error.

    Parameters
    ----------
    histories : condition → task → the rows of training.parquet, of runs with one seed.

    Raises
    ------
    MergeloomError
        A history lacks what a selection looks at.
    """
    tasks = list(next(iter(histories.values())))
    width = max(6.5, 3.1 * len(design.groups) + 0.9)
    subject = f"{subject}: seed {seed}, ± standard error" if subject else ""
    with style.figure(width, 1.75 * len(tasks) + 1.9, _HEADING, subject) as fig:
        grid = panels(fig, len(tasks), design, by_levels=False, sharex="row", sharey="row")
        for axes, group in zip(grid[0], design.groups, strict=True):
            key_of_levels(axes, group, above=5)
        for row, task in zip(grid, tasks, strict=True):
            for axes, group in zip(row, design.groups, strict=True):
                for level in group.levels:
                    for variant, condition in level.conditions.items():
                        _curve(
                            axes, histories[condition][task], level.color, dashes(design, variant)
                        )
                        _marks(axes, histories[condition][task], selections, level.color, condition)
                axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
                axes.yaxis.set_major_locator(MaxNLocator(4))
            row_title(row[0], task)
            row[0].set_ylabel("log-trace")
        for axes in grid[-1]:
            axes.set_xlabel("epoch")
        handles = [*key_of_selections(selections), *key_of_variants(design)]
        fig.legend(handles=handles, loc="outside lower center", ncols=2)
        return fig


def _curve(axes: Axes, history: pd.DataFrame, color: str, dash: object) -> None:
    epoch, value, error = (history[name] for name in ("epoch", "log_trace", "log_trace_se"))
    axes.plot(epoch, value, color=color, linestyle=dash, linewidth=1.1)
    axes.fill_between(epoch, value - error, value + error, color=color, alpha=0.12, linewidth=0)


def _marks(
    axes: Axes, history: pd.DataFrame, selections: Sequence[str], color: str, condition: str
) -> None:
    for selection in selections:
        row = selected_row(history, selection, condition)
        axes.plot(row["epoch"], row["log_trace"], color=color, **mark(selection, color))
