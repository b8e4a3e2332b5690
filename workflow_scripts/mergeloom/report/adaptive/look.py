"""What the figures of a study of adapters share: looks, heads of panels, places of labels."""

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mergeloom.report import style
from mergeloom.report.adaptive.study import (
    ADAPTER,
    FINETUNED,
    MERGER,
    ORACLE,
    SPLITS,
    TRANSFERRED,
)
from mergeloom.report.results import Result

# Widths of a letter in inches: of titles, and of legends.
_BOLD: Final = 0.097
_PLAIN: Final = 0.076

MARKERS: Final = {MERGER: "s", ADAPTER: "o", TRANSFERRED: "^", ORACLE: "D", FINETUNED: "P"}
WORDS: Final = {
    MERGER: "static merger",
    ADAPTER: "adapter",
    TRANSFERRED: "adapter of another encoder",
    ORACLE: "oracle",
}


FILLS: Final = ("full", "none", "left", "top")
"""How a marker is filled whose colour stands for the first time, the second, …"""


def looks(models: Iterable[tuple[str, str]]) -> list[dict[str, Any]]:
    """Colour and marker of models, given as (kind, name): a marker per kind, a colour per name.

    Within a kind, colours that stand again are hollow, then half full: 24 models differ. A
    transferred adapter has the colour that it has where it was trained, if it stands there, too.
    """
    models = list(models)
    found: list[dict[str, Any]] = []
    counts: dict[str, int] = {}
    of_adapters: dict[str, int] = {}
    for kind, name in models:
        if kind in ("zeroshot", FINETUNED):
            color = (style.ZEROSHOT if kind == "zeroshot" else style.FINETUNED)["color"]
            found.append(_look(color, MARKERS.get(kind, "X"), FILLS[0]))
            continue
        group = MERGER if kind == MERGER else ADAPTER
        index = of_adapters.get(name) if kind == TRANSFERRED else None
        if index is None:
            index = counts.get(group, 0)
            counts[group] = index + 1
        if kind == ADAPTER:
            of_adapters[name] = index
        color = style.series(index)["color"]
        found.append(_look(color, MARKERS[kind], FILLS[style.turn(index)]))
    return found


def _look(color: str, marker: str, fill: str) -> dict[str, Any]:
    return {
        "color": color,
        "marker": marker,
        # White inside, where no fill would let lines be seen through it.
        "fillstyle": "full" if fill == "none" else fill,
        "markerfacecolor": "white" if fill == "none" else color,
        "markerfacecoloralt": "white",
        "markeredgecolor": color,
        "linestyle": "",
        "markersize": 7 if marker in "^P" else 6,
    }


def spread(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move values as little as needed to be `gap` apart, in their order, within low and high.

    Neighbours that are too close are put around their mean; where all do not fit, the gap shrinks.
    """
    order = np.argsort(np.asarray(values, dtype=float), kind="stable")
    count = len(values)
    gap = min(gap, (high - low) / max(count - 1, 1))
    # Without its share of gaps, each value may stand no lower than those before it: isotonic
    # regression, by pooling neighbours that are out of order.
    pools: list[list[float]] = []  # mean, size
    for position, index in enumerate(order):
        pools.append([float(values[index]) - gap * position, 1])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            mean, size = pools.pop()
            before, of = pools[-1]
            pools[-1] = [(before * of + mean * size) / (of + size), of + size]
    flat = [mean for mean, size in pools for _ in range(int(size))]
    flat = list(np.clip(flat, low, high - gap * (count - 1)))
    placed = [0.0] * count
    for position, index in enumerate(order):
        placed[index] = float(flat[position]) + gap * position
    return placed


def words_of_adaptation(result: Result) -> str:
    """On which inputs an adapter was adapted, and for how long, as a line below a title."""
    adaptation = result["adaptation"]
    steps = adaptation.get("steps")
    of_steps = f", {steps:,} steps" if steps else ""
    return SPLITS.get(adaptation["split"], adaptation["split"]) + of_steps


def head(axes: Axes, title: str, note: str, width: float, warning: str = "") -> None:
    """Head a panel `width` inches wide, with a title that may take two lines; see `style.title`."""
    lines = textwrap.wrap(title, max(int(width / _BOLD), 12), break_on_hyphens=False)
    style.title(axes, "\n".join(lines), note, warning)


def legend(fig: Figure, handles: Sequence[Line2D]) -> None:
    """Put a legend below the panels, in as many columns as the figure is wide enough for."""
    columns = _columns_of_legend(handles, fig.get_figwidth())
    fig.legend(handles=handles, loc="outside lower center", ncols=columns)


def lines_of_legend(handles: Sequence[Line2D], width: float) -> int:
    """How many lines such a legend takes in a figure `width` inches wide."""
    return -(-len(handles) // _columns_of_legend(handles, width))


def _columns_of_legend(handles: Sequence[Line2D], width: float) -> int:
    longest = max(len(str(handle.get_label())) for handle in handles)
    return max(1, min(int((width - 0.3) / (_PLAIN * longest + 0.75)), 6))


def last_of_columns(panels: np.ndarray, count: int) -> list[Axes]:
    """Of `count` panels in a grid, the lowest that is seen in every column."""
    columns = panels.shape[1]
    return [panels.flat[i] for i in range(count) if i + columns >= count]
