"""Bar chart: average accuracy of every merger of a benchmark, absolute and normalized."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from mergeloom.report import style
from mergeloom.report.tables import mergers_of, reference

HATCHES = ("", "////", "....", "xxxx")
"""Where the palette repeats, the bars are hatched as the lines of other figures are dashed."""


def bars(frame: pd.DataFrame, subject: str = "") -> Figure:
    """Draw the averages of a summary (see `mergeloom.report.tables.summary`) as bars.

    Mergers stand in the order of the table, from top to bottom; zero-shot and fine-tuned are lines
    across the bars. Left absolute accuracy, right normalized by the fine-tuned models'. A diamond
    on a bar is the published average of that merger.
    """
    mergers = mergers_of(frame)
    published = "published_accuracy" in mergers and mergers["published_accuracy"].notna().any()
    height = 1.9 + 0.36 * max(len(mergers), 1) + 0.3 * published
    with style.figure(9, height, "Average accuracy of the merged models", subject) as fig:
        left, right = fig.subplots(1, 2, sharey=True)
        for axes, column, title in (
            (left, "accuracy", "accuracy"),
            (
                right,
                "normalized_accuracy",
                "accuracy relative to fine-tuned",
            ),
        ):
            _panel(axes, mergers, column)
            if published:
                _published(axes, mergers[f"published_{column}"])
            for merger, look in (("zeroshot", style.ZEROSHOT), ("finetuned", style.FINETUNED)):
                row = reference(frame, merger)
                if row is not None:
                    _line(axes, float(row[column]), style.label(merger), look)
            axes.set_title(title, pad=20)
        left.set_yticks(np.arange(len(mergers)), [_name(row) for _, row in mergers.iterrows()])
        left.set_ylim(len(mergers) - 0.45, -0.55)
        if published:
            words = "published for the same encoder, benchmark and family of checkpoints"
            fig.legend(left.lines[:1], [words], loc="outside lower left", handlelength=1)
        return fig


def _panel(axes: Axes, mergers: pd.DataFrame, column: str) -> None:
    values = mergers[column].to_numpy(dtype=float)
    end = max([1.0, *values])
    # A model that is told its task does not compete with one model for all.
    competing = mergers.loc[~mergers["per_task"].astype(bool), column]
    for index, value in enumerate(values):
        look = style.series(index)
        axes.barh(
            index,
            value,
            height=0.66,
            color=look["color"],
            edgecolor="white",
            linewidth=0,
            hatch=HATCHES[style.turn(index)],
        )
        # Numbers in a column past the bars: on them they would meet the reference lines.
        competes = not mergers["per_task"].iloc[index]
        best = competes and round(value, 3) == round(competing.max(), 3)
        axes.text(
            end * 1.16,
            index,
            f"{100 * value:.1f}",
            ha="right",
            va="center_baseline",
            fontweight="bold" if best else "normal",
        )
    axes.set_xlim(0, end * 1.16)
    axes.set_xticks(np.arange(0, end + 0.01, 0.2))
    axes.spines["bottom"].set_bounds(0, end)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0, labelsize=9)
    axes.spines["left"].set_visible(False)


def _published(axes: Axes, values: pd.Series) -> None:
    # White with a dark edge: to be seen on a bar of any colour and beside it.
    axes.plot(values, values.index, ls="", marker="D", ms=6, mfc="white", mec="#111111", mew=1.3)


def _line(axes: Axes, value: float, name: str, look: dict[str, Any]) -> None:
    axes.axvline(value, **look, label=name)
    axes.annotate(
        f"{name} {100 * value:.1f}",
        (value, 1),
        xycoords=("data", "axes fraction"),
        xytext=(0, 4),
        textcoords="offset points",
        ha="center",
        color=look["color"],
        fontsize=8,
    )


def _name(merger: pd.Series) -> str:
    alpha = "" if pd.isna(merger["alpha"]) else f"  (α = {merger['alpha']:g})"
    told = ", told the task" if merger["per_task"] else ""
    return style.label(merger["merger"]) + told + alpha
