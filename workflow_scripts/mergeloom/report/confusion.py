"""Confusion matrices: small multiples, a panel per task."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from mergeloom.report import style

NAMED = 12
"""Up to this number of classes, rows carry their names; columns have the same order."""
CELLS = 100
"""Cells of a row that a panel can show."""
LONGEST = 16
"""Letters of a name that are shown."""


def confusion(content: Mapping[str, Any]) -> Figure:
    """Draw the confusion matrix of every task: rows are labels and sum to 1, columns predictions.

    Colours follow the square root of the share, so that single confusions show beside the diagonal,
    and the most frequent one is named. Of more than 100 classes, a cell stands for a block of the
    matrix and shows its largest share.

    Parameters
    ----------
    content : what an inspection JSON holds (config/schema/inspection.schema.json).
    """
    tasks = content["tasks"]
    rows, columns = style.grid(len(tasks), 4)
    heading = f"Confusion of {style.label(content['merger'])}"
    subject = ", ".join(content[key] for key in ("encoder", "experts", "benchmark"))
    with style.figure(3.2 * columns + 1, 3.7 * rows + 0.8, heading, subject) as fig:
        panels = fig.subplots(rows, columns, squeeze=False)
        for axes, (task, counted) in zip(panels.flat, tasks.items(), strict=False):
            image = _panel(axes, task, counted)
        for axes in panels.flat[len(tasks) :]:
            axes.set_visible(False)
        bar = fig.colorbar(image, ax=panels, shrink=min(1, 1.6 / rows), aspect=20)
        bar.set_label("share of the label's images")
        bar.set_ticks([0, 0.05, 0.25, 0.5, 1], labels=["0", "5%", "25%", "50%", "100%"])
        bar.outline.set_visible(False)
        return fig


def _panel(axes: Axes, task: str, counted: Mapping[str, Any]) -> AxesImage:
    counts = np.array(counted["confusion"], dtype=float)
    names = [_short(name) for name in counted["classnames"]]
    images = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, images, out=np.zeros_like(counts), where=images > 0)
    block = -(-len(names) // CELLS)
    image = axes.imshow(
        _largest_of_blocks(shares, block),
        cmap="YlGnBu",
        norm=PowerNorm(0.5, 0, 1),
        interpolation="nearest",
        aspect="auto",
    )
    axes.set_box_aspect(1)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.set_xticks([])
    axes.set_yticks(range(len(names)), names) if len(names) <= NAMED else axes.set_yticks([])
    of_blocks = f", {block}×{block} in a cell" if block > 1 else ""
    axes.set_xlabel(f"prediction ({len(names)} classes{of_blocks})")
    apart = shares * (1 - np.eye(len(names)))
    label, prediction = np.unravel_index(apart.argmax(), apart.shape)
    note = f"{counted['accuracy']:.1%} right"
    if apart.any():
        note += f"\n{names[label]} → {names[prediction]}: {apart.max():.0%}"
    style.title(axes, task, note)
    return image


def _largest_of_blocks(matrix: np.ndarray, block: int) -> np.ndarray:
    starts = np.arange(0, len(matrix), block)
    return np.maximum.reduceat(np.maximum.reduceat(matrix, starts, axis=0), starts, axis=1)


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"
