"""Diagnosis of a merge on one page: alignment, signs, angles, interference and ranks."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter
from matplotlib.transforms import ScaledTranslation

from mergeloom.errors import MergeloomError
from mergeloom.report import style

SAME, ZERO, OPPOSITE = "#0072B2", "#D8D8D8", "#D55E00"
ALIGNED, TASKS, OUTSIDE = "#5B7083", "#9A9A9A", "#222222"
LARGEST = 12
"""Up to this number of tasks, the cells of the cosine matrix hold their numbers."""

Kinds = dict[str, list[Mapping[str, Any]]]


def diagnosis(content: Mapping[str, Any]) -> Figure:
    """Draw what a merge did to each of its tasks, and to the kinds of matrices over the blocks.

    Above, task by task: the subspace alignment ratio beside what random directions would have, the
    signs of the merged weights beside the task's, and cosines. Below, over the blocks: interference
    of the tasks, and effective ranks of the tasks and of what was made of them.

    Parameters
    ----------
    content : what a diagnosis JSON holds (config/schema/diagnosis.schema.json).

    Raises
    ------
    MergeloomError
        A list has another length than there are tasks.
    """
    tasks, model, average = content["tasks"], content["model"], content["average"]
    for name, values in (("sar", average["sar"]), ("cosine", model["cosine"])):
        if len(values) != len(tasks):
            raise MergeloomError(
                f"The diagnosis of {content['merger']} has {len(values)} values of {name} for "
                f"{len(tasks)} tasks.\nDelete its JSON and run the rule that makes it."
            )
    kinds, single = _kinds(content["matrices"])
    rows, columns = style.grid(len(kinds) + bool(single), 3)
    above, below = max(3.5, 0.26 * len(tasks) + 1.9), max(3.9, 1.75 * rows + 1.5)
    heading = f"What {style.label(content['merger'])} does to its tasks"
    subject = ", ".join(content[key] for key in ("encoder", "experts", "benchmark"))
    with style.figure(13, above + below, heading, subject) as fig:
        spec = fig.add_gridspec(2, 3, height_ratios=[above, below])
        top, low = fig.add_subfigure(spec[0, :]), fig.add_subfigure(spec[1, 0])
        left, middle, right = top.subplots(1, 3, width_ratios=[1, 1, 1.25])
        _alignment(left, content)
        _signs(middle, content)
        _cosines(right, content)
        _interference(low.subplots(), kinds, single)
        low.legend(loc="outside lower left", ncols=2, columnspacing=1.2)
        ranks = fig.add_subfigure(spec[1, 1:])
        ranks.suptitle(
            "Effective rank: how many directions a matrix uses", x=0.02, ha="left", fontsize=10
        )
        panels = ranks.subplots(rows, columns, sharey=True, squeeze=False)
        shown = [*kinds.items(), *([("", single)] if single else [])]
        for index, (axes, (kind, entries)) in enumerate(zip(panels.flat, shown, strict=False)):
            _ranks(axes, kind, entries, index)
        for axes in panels.flat[len(shown) :]:
            axes.set_visible(False)
        panels[0, 0].set_ylim(0, 1.08 * panels[0, 0].dataLim.y1)
        _key(ranks, content["per_task"])
        return fig


def _kinds(matrices: Mapping[str, Mapping[str, Any]]) -> tuple[Kinds, list[Mapping[str, Any]]]:
    """Matrices of the blocks by kind, in the order of the blocks, and those outside of them."""
    kinds: Kinds = {}
    for entry in sorted(matrices.values(), key=lambda entry: entry["block"] or 0):
        if entry["block"] is not None:
            kinds.setdefault(entry["kind"], []).append(entry)
    single = [entry for entry in matrices.values() if entry["block"] is None]
    return dict(sorted(kinds.items())), single


def _alignment(axes: Axes, content: Mapping[str, Any]) -> None:
    own = "its own model" if content["per_task"] else "the merged model"
    style.title(
        axes, "Alignment (SAR)", f"share of each task's ‖Δ‖ along {own}'s\nleading directions"
    )
    values = _numbers(content["average"]["sar"])
    _bars(axes, content["tasks"], values, ALIGNED)
    for index, value in enumerate(values):
        text = "–" if np.isnan(value) else f"{value:.2f}"
        axes.text(1.13, index, text, ha="right", va="center_baseline")
    axes.set_xlim(0, 1.13)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", ".25", ".5", ".75", "1"])
    axes.spines["bottom"].set_bounds(0, 1)
    chance = _chance(content["matrices"].values())
    if np.isnan(values).all():
        _nothing(axes)
    else:
        axes.axvline(chance, color="#222222", linestyle=":", linewidth=1.3)
        axes.set_xlabel(f"dotted: random directions have {chance:.2f}")


def _chance(matrices: Any) -> float:
    """What the alignment of a random matrix would be: √(k/m), averaged over matrices."""
    roots = [
        np.sqrt(rank / entry["shape"][0])
        for entry in matrices
        for rank in entry["sar_rank"]
        if rank is not None
    ]
    return float(np.mean(roots)) if roots else np.nan


def _signs(axes: Axes, content: Mapping[str, Any]) -> None:
    model, count = content["model"], len(content["tasks"])
    note = ""
    if count > 1 and model["sign_unanimity"] is not None:
        all_of = "both" if count == 2 else f"all {count}"
        note = (
            f"{all_of} tasks agree on {_percent(model['sign_unanimity'])} of the weights\n"
            f"(random signs: {_percent(2.0 ** (1 - count))})"
        )
    style.title(axes, "Signs of the merged weights", note)
    same, opposite = (_numbers(model[f"sign_{name}"]) for name in ("agreement", "opposition"))
    _bars(axes, None, same, SAME)
    _bars(axes, None, 1 - same - opposite, ZERO, start=same)
    _bars(axes, None, opposite, OPPOSITE, start=1 - opposite)
    for index, value in enumerate(same):
        if not np.isnan(value):
            inside = value > 0.15
            axes.text(
                max(value - 0.015, 0.01) if inside else 0.01,
                index,
                _percent(value),
                ha="right" if inside else "left",
                va="center_baseline",
                color="white" if inside else "#222222",
            )
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    if np.isnan(same).all():
        _nothing(axes)
        return
    looks = {"as the task's": SAME, "zero": ZERO, "opposite": OPPOSITE}
    # At a distance that does not grow with the panel.
    below = ScaledTranslation(0, -17 / 72, axes.figure.figure.dpi_scale_trans)
    axes.legend(
        handles=[Patch(color=colour, label=name) for name, colour in looks.items()],
        loc="upper center",
        bbox_to_anchor=(0.5, 0),
        bbox_transform=axes.transAxes + below,
        ncols=3,
        columnspacing=1.2,
        handlelength=1.2,
    )


def _bars(
    axes: Axes,
    tasks: Sequence[str] | None,
    values: np.ndarray,
    colour: str,
    start: np.ndarray | float = 0,
) -> None:
    rows = np.arange(len(values))
    axes.barh(rows, values, left=start, height=0.7, color=colour, linewidth=0)
    axes.set_yticks(rows, [""] * len(rows) if tasks is None else tasks)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _cosines(axes: Axes, content: Mapping[str, Any]) -> None:
    tasks, count = content["tasks"], len(content["tasks"])
    style.title(
        axes, "Cosine similarity of task vectors", "near 0: the tasks moved in unrelated ways"
    )
    own = "own model" if content["per_task"] else "merged"
    cells = np.full((count, count + 2), np.nan)  # the column between is the gap
    cells[:, :count] = [_numbers(row) for row in content["model"]["cosine"]]
    np.fill_diagonal(cells, np.nan)
    cells[:, -1] = _numbers(content["model"]["cosine_with_merged"])
    known = cells[np.isfinite(cells)]
    extent = max(0.05, float(np.abs(known).max())) if known.size else 1.0
    least = float(known.min()) if known.size else 0.0
    rises = least > -0.05
    mesh = axes.pcolormesh(
        np.ma.masked_invalid(cells),
        cmap="YlGnBu" if rises else "PuOr_r",
        vmin=min(0.0, least) if rises else -extent,
        vmax=extent,
        edgecolors="white",
        linewidth=1,
    )
    axes.set_aspect("equal", anchor="NE")
    places = [*np.arange(count) + 0.5, count + 1.5]
    axes.set_xticks(places, [*tasks, own], rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(np.arange(count) + 0.5, tasks)
    axes.tick_params(length=0)
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    bar = axes.figure.colorbar(mesh, ax=axes, shrink=0.8, aspect=22, panchor=False)
    bar.outline.set_visible(False)
    if count > LARGEST:
        return
    for (row, column), value in np.ndenumerate(cells):
        if column in (row, count):
            continue
        red, green, blue, _ = mesh.to_rgba(value)
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
        text = "–" if np.isnan(value) else f"{value:.2f}".replace("0.", ".", 1).replace("-", "−")
        axes.text(
            column + 0.5,
            row + 0.5,
            text,
            ha="center",
            va="center",
            fontsize=7,
            color="white" if dark and np.isfinite(value) else "#222222",
        )


def _interference(axes: Axes, kinds: Kinds, single: Sequence[Mapping[str, Any]]) -> None:
    style.title(
        axes,
        "Interference of the tasks (STI / Σσ)",
        "0: none. A property of the tasks, the same for every merger",
    )
    last = max((entry["block"] for entries in kinds.values() for entry in entries), default=-1)
    for index, (kind, entries) in enumerate(kinds.items()):
        look = style.series(index) | {"marker": "o", "markersize": 3.5}
        blocks = [entry["block"] for entry in entries]
        values = _numbers([entry["sti_normalized"] for entry in entries])
        axes.plot(blocks, values, label=_short(kind), **look)
    for index, entry in enumerate(single):
        look = style.series(len(kinds) + index) | {"marker": "D", "linestyle": ""}
        value = _numbers([entry["sti_normalized"]])
        axes.plot([last + 1.5], value, label=_short(entry["kind"]), **look)
    axes.set_ylim(0, max(axes.get_ylim()[1], 0.1))
    axes.set_xlabel("block" + (" (grey: outside of the blocks)" if single else ""))
    axes.set_xticks(range(0, last + 1, last // 8 + 1))
    if single:
        axes.set_xlim(-0.5, last + 2)
        axes.axvspan(last + 1, last + 2, color="#F4F4F4", linewidth=0, zorder=0)


def _ranks(axes: Axes, kind: str, entries: Sequence[Mapping[str, Any]], index: int) -> None:
    colour = style.series(index)["color"] if kind else OUTSIDE
    steps = np.array([entry["block"] for entry in entries] if kind else range(len(entries)))
    for name, look, aside in (
        ("effective_rank", TASKS, -0.1),
        ("merged_effective_rank", colour, 0.1),
    ):
        values = np.ma.masked_invalid([_numbers(entry[name]) for entry in entries])
        mean, low, high = values.mean(axis=1), values.min(axis=1), values.max(axis=1)
        if kind:
            axes.plot(steps, mean, color=look, marker="o", markersize=3, linewidth=1.6)
            axes.fill_between(steps, low, high, color=look, alpha=0.25, linewidth=0)
        else:
            axes.plot(steps + aside, mean, color=look, marker="o", linestyle="")
            axes.vlines(steps + aside, low, high, color=look, alpha=0.4, linewidth=4)
    if kind:
        title = f"{_short(kind)}, at most {min(entries[0]['shape'])}"
        axes.set_xticks(range(0, steps[-1] + 1, steps[-1] // 5 + 1))
        axes.set_xlim(-0.5, steps[-1] + 0.5)
        axes.set_xlabel("block")
    else:
        title = "outside of the blocks"
        names = [f"{_short(entry['kind'])}\nat most {min(entry['shape'])}" for entry in entries]
        axes.set_xticks(steps, names)
        axes.set_xlim(-0.6, len(steps) - 0.4)
    axes.set_title(title, fontsize=9, color=colour)


def _key(ranks: SubFigure, per_task: bool) -> None:
    own = "what was made of them" if per_task else "the merged model"
    grey = Line2D([], [], color=TASKS), Patch(color=TASKS, alpha=0.25)
    handles: list[Any] = [grey, Line2D([], [], color=OUTSIDE)]
    labels = ["the tasks: mean, lowest and highest", f"{own} (black, or in the title's colour)"]
    ranks.legend(handles, labels, loc="outside lower left", ncols=2)


def _nothing(axes: Axes) -> None:
    axes.text(
        0.5,
        0.5,
        "the merged task vector is zero",
        transform=axes.transAxes,
        ha="center",
        va="center",
        color=style.MUTED,
    )


def _numbers(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def _percent(share: float) -> str:
    return f"{share:.0%}" if share > 0.095 else f"{share:.1%}" if share >= 0.001 else "<0.1%"


def _short(kind: str) -> str:
    parts = kind.removesuffix(".weight").split(".")
    left_out = ("visual", "transformer", "resblocks", "{}")
    return ".".join(part for part in parts if part not in left_out) or kind
