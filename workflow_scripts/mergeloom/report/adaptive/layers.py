"""Coefficients by depth, of adapters that have one for each parameter."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mergeloom.models.naming import by_stage, naming, recognise
from mergeloom.report import style
from mergeloom.report.adaptive.coefficients import SAME
from mergeloom.report.adaptive.look import head, last_of_columns, legend, lines_of_legend

_HEADING: Final = "Coefficients by depth"
_OWN: Final[dict[str, Any]] = {"color": "#111111", "linewidth": 2.2, "zorder": 5}
_OTHERS: Final[dict[str, Any]] = {
    "color": "#8a8a8a", "linewidth": 1.8, "linestyle": (0, (4, 1.6)), "zorder": 4,
}  # fmt: skip
_BEFORE: Final[dict[str, Any]] = {"color": "#444444", "linewidth": 1.0, "linestyle": (0, (1, 2))}

Stages = list[tuple[str, list[str]]]


def stages(layers: Sequence[str]) -> Stages:
    """Parameters by the part of the model that they belong to, in the order of the input's way.

    Returns
    -------
    The name of each part (`input`, the number of a block, `output`) and its parameters; of a model
    with a decoder, its blocks are `d1`, `d2`, … after those of the encoder.
    """
    keys = sorted(set(layers))
    named = naming(recognise(keys))
    before, *blocks, behind = by_stage(named, keys)
    of_decoder = [bool(block) and "decoder" in block[0] for block in blocks]
    first = of_decoder.index(True) if any(of_decoder) else len(blocks)
    names = [f"d{i - first + 1}" if i >= first else str(i + 1) for i in range(len(blocks))]
    found = [("input", before), *zip(names, blocks, strict=True), ("output", behind)]
    return [(name, members) for name, members in found if members]


def by_depth(coefficients: pd.DataFrame, tasks: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Names of the parts of the model, and coefficients float64 [part, task of inputs, expert].

    Parameters of a part count alike.
    """
    parts = stages(list(coefficients["layer"]))
    place = {key: index for index, (_, keys) in enumerate(parts) for key in keys}
    found = (
        coefficients.assign(part=coefficients["layer"].map(place))
        .groupby(["part", "task", "expert"])["mean"]
        .mean()
    )
    values = np.array(
        [
            [[found.get((part, t, e), np.nan) for e in tasks] for t in tasks]
            for part in range(len(parts))
        ]
    )
    return [name for name, _ in parts], values


def layers(
    adapters: Mapping[str, pd.DataFrame],
    tasks: Sequence[str],
    before: Mapping[str, float],
    subject: str = "",
) -> Figure:
    """Draw coefficients over depth: a panel per adapter that has them by parameter.

    Thin, by task: the coefficient of the own expert on inputs of the task; bold: its mean over
    tasks; dashed: the mean of the coefficients of all other experts; dotted, across: all of them
    before adaptation. Where inputs of all tasks get the same, both means coincide, and the note
    says so.

    Parameters
    ----------
    adapters : name as it is shown → its coefficients: columns task, expert, layer, mean.
    before : name → the coefficient that it begins with; without those that have none.
    """
    shown = {name: by_depth(found, tasks) for name, found in adapters.items() if _has_layers(found)}
    if not shown:
        with style.figure(6, 1.6, _HEADING, subject) as fig:
            return style.say(fig, "No adapter of this study has coefficients by layer.")
    rows, columns = style.grid(len(shown), 3)
    width = max(3.4 * columns + 0.6, 5.2)
    key = _key(tasks, any(name in before for name in shown))
    height = 2.8 * rows + 1.1 + 0.2 * lines_of_legend(key, width)
    with style.figure(width, height, _HEADING, subject) as fig:
        panels = fig.subplots(rows, columns, squeeze=False, sharey=True)
        for axes, (name, (parts, values)) in zip(panels.flat, shown.items(), strict=False):
            _panel(axes, parts, values)
            if name in before:
                axes.axhline(before[name], **_BEFORE)
            same = len(tasks) > 1 and np.allclose(values, values[:, :1], equal_nan=True)
            head(axes, name, SAME if same else "", 3.1)
        for axes in panels.flat[len(shown) :]:
            axes.set_visible(False)
        for row in panels:
            row[0].set_ylabel("coefficient")
        for axes in last_of_columns(panels, len(shown)):
            axes.set_xlabel("block of the model")
        legend(fig, key)
        return fig


def _has_layers(coefficients: pd.DataFrame) -> bool:
    return bool(len(coefficients)) and bool(coefficients["layer"].notna().all())


def _panel(axes: Axes, parts: Sequence[str], values: np.ndarray) -> None:
    x, count = np.arange(len(parts)), values.shape[1]
    own = np.einsum("pkk->pk", values)
    for index in range(count):
        look = style.series(index)
        axes.plot(x, own[:, index], color=look["color"], linestyle=look["linestyle"], linewidth=0.9)
    axes.plot(x, own.mean(axis=1), **_OWN)
    if count > 1:
        axes.plot(x, values[:, ~np.eye(count, dtype=bool)].mean(axis=1), **_OTHERS)
    ticks = ticks_of(parts)
    axes.set_xticks(
        ticks, [{"input": "in", "output": "out"}.get(parts[i], parts[i]) for i in ticks]
    )
    axes.yaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 2.5, 5, 10]))


def ticks_of(parts: Sequence[str]) -> list[int]:
    """Which of the parts are named: at most some 15, the input and the output always."""
    step = -(-len(parts) // 13)
    ends = [i for i, name in enumerate(parts) if name in ("input", "output")]
    blocks = range(step if 0 in ends else 0, len(parts), step)
    return sorted([*ends, *(i for i in blocks if all(abs(i - end) >= step for end in ends))])


def _key(tasks: Sequence[str], before: bool) -> list[Line2D]:
    handles = [
        Line2D([], [], **_OWN, label="own expert, mean"),
        Line2D([], [], **_OTHERS, label="other experts, mean"),
    ]
    if before:
        handles.append(Line2D([], [], **_BEFORE, label="before adaptation"))
    for index, task in enumerate(tasks):
        look = style.series(index)
        handles.append(
            Line2D(
                [], [], color=look["color"], linestyle=look["linestyle"], linewidth=0.9, label=task
            )
        )
    return handles
