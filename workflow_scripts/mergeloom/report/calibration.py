"""Reliability diagrams: small multiples, a panel per task."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from mergeloom.report import style

RIGHT, TOO_SURE, UNSURE, SHARE = "#0072B2", "#F2C2A1", "#8FD0BC", "#222222"


def calibration(content: Mapping[str, Any]) -> Figure:
    """Draw accuracy over confidence for every task, and how many images have that confidence.

    A calibrated model has its bars end on the diagonal; the gap to the mean confidence of a bin is
    what its expected calibration error (arXiv 1706.04599) sums up, weighted by the share of images.

    Parameters
    ----------
    content : what an inspection JSON holds (config/schema/inspection.schema.json).
    """
    tasks = content["tasks"]
    rows, columns = style.grid(len(tasks), 4)
    heading = f"Calibration of {style.label(content['merger'])}"
    wide = columns if columns < 3 else 4  # of the key
    subject = ", ".join(content[key] for key in ("encoder", "experts", "benchmark"))
    height = 2.7 * rows + 0.9 + 0.8 / wide
    with style.figure(max(2.7 * columns + 0.4, 4.2), height, heading, subject) as fig:
        panels = fig.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for axes, (task, counted) in zip(panels.flat, tasks.items(), strict=False):
            _panel(axes, task, counted)
        for axes in panels.flat[len(tasks) :]:
            axes.set_visible(False)
        for index, axes in enumerate(panels.flat[: len(tasks)]):
            if index + columns >= len(tasks):
                axes.set_xlabel("confidence")
                axes.tick_params(labelbottom=True)
        fig.legend(
            handles=[
                Patch(color=RIGHT, label="accuracy"),
                Patch(color=TOO_SURE, label="up to the confidence: too sure"),
                Patch(color=UNSURE, label="beyond it: not sure enough"),
                Line2D([], [], color=SHARE, linewidth=1.2, label="share of images"),
            ],
            loc="outside lower left",
            ncols=wide,
        )
        return fig


def _panel(axes: Axes, task: str, counted: Mapping[str, Any]) -> None:
    count, correct, confidence = (
        np.array(counted["reliability"][key], dtype=float)
        for key in ("count", "correct", "confidence")
    )
    edges = np.linspace(0, 1, len(count) + 1)
    there = count > 0
    left, width = edges[:-1][there], edges[1]
    accuracy, mean = correct[there] / count[there], confidence[there] / count[there]
    both = np.minimum(accuracy, mean)
    gap = np.where(accuracy < mean, TOO_SURE, UNSURE)
    look: Any = {"width": width, "align": "edge", "edgecolor": "white", "linewidth": 0.6}
    axes.bar(left, both, color=RIGHT, **look)
    axes.bar(left, np.abs(mean - accuracy), bottom=both, color=gap, **look)
    axes.plot([0, 1], [0, 1], color=style.MUTED, linestyle=":", linewidth=1.2)
    axes.stairs(count / count.sum(), edges, color=SHARE, linewidth=1.2)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_aspect("equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks([0, 0.25, 0.5, 0.75, 1])
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    style.title(axes, task, f"ECE {counted['ece']:.1%}, {counted['accuracy']:.1%} right")
