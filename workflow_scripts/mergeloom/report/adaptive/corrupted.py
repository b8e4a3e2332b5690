"""Adaptation to corrupted images: before and after, beside static mergers, kind by kind."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, Final

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mergeloom.report import style
from mergeloom.report.adaptive.look import MARKERS, WORDS, head, last_of_columns, legend, looks
from mergeloom.report.adaptive.study import (
    ADAPTER,
    FINETUNED,
    MERGER,
    ORACLE,
    ZEROSHOT,
    collapse,
    label,
    models,
)
from mergeloom.report.adaptive.text import collapse as words_of_collapse
from mergeloom.report.adaptive.text import percent, sources
from mergeloom.report.markdown import tables
from mergeloom.report.published import Figure as Published
from mergeloom.report.results import Result

CLEAN: Final = "clean"
_HEADING: Final = "Adaptation to corrupted images"
_NAN: Final = float("nan")


def images_of(result: Result) -> str:
    """The images that a result is of: `clean`, or corruption and severity."""
    on = result.get("evaluated_on") or {}
    return f"{on['corruption']}{on['severity']}" if "corruption" in on else CLEAN


def table(
    results: Iterable[Result], tasks: Sequence[str], published: Iterable[Published]
) -> pd.DataFrame:
    """Put results on clean and on corrupted images into a table.

    Parameters
    ----------
    results : of mergers and adapters; those on the same images stand together.
    published : figures of the same encoder, experts and benchmark, each by its images.

    Returns
    -------
    DataFrame with the columns images, model, kind, per_task, before, accuracy, gain,
    normalized_accuracy (relative to the fine-tuned models on the same images), collapsed (on
    average; None where nothing is adapted), collapsed_tasks, published_accuracy and
    published_source (where any is), and per task `{task}`, `{task}_before`.

    Raises
    ------
    MergeloomError – results on the same images do not belong together.
    """
    known = {(f.images or CLEAN, f.method): f for f in published if not f.task}
    rows = []
    for images, found in groupby(results, key=images_of):
        for model in models(list(found), tasks):
            result = model.result
            earlier = result.get("before") or {"average": {"accuracy": _NAN}, "tasks": {}}
            fell, figure = collapse(result), known.get((images, model.name))
            row: dict[str, Any] = {
                "images": images,
                "model": model.name,
                "kind": model.kind,
                "per_task": "merger" in result and result["merger"]["per_task"],
                "before": earlier["average"]["accuracy"],
                "accuracy": result["average"]["accuracy"],
                "gain": result["average"]["accuracy"] - earlier["average"]["accuracy"],
                "normalized_accuracy": result["average"]["normalized_accuracy"],
                "collapsed": fell.average,
                "collapsed_tasks": ", ".join(fell.tasks),
                "published_accuracy": figure.accuracy if figure else _NAN,
                "published_source": figure.source if figure else "",
            }
            for task in tasks:
                row[task] = result["tasks"][task]["accuracy"]
                row[f"{task}_before"] = earlier["tasks"].get(task, {}).get("accuracy", _NAN)
            rows.append(row)
    frame = pd.DataFrame(rows)
    empty = frame["published_accuracy"].isna().all()
    return frame.drop(columns=["published_accuracy", "published_source"]) if empty else frame


def markdown(frame: pd.DataFrame, tasks: Sequence[str], subject: str) -> str:
    """Write a table of averages over tasks, and one for each kind of images, in percent."""
    kinds = list(dict.fromkeys(frame["images"]))
    lines = [
        f"# {_HEADING}: {subject}",
        "",
        "Average test accuracy in percent. Adapters: before → after adaptation to the same images;",
        "! marks a collapse on average: entropy fell and, by more than a point, accuracy on clean",
        "validation images or on these. Tasks that collapsed are named below.",
        "",
    ]
    order = list(dict.fromkeys(zip(frame["kind"], frame["model"], strict=True)))
    cells = {
        (row["kind"], row["model"], row["images"]): _before_and_after(row) for row in _rows(frame)
    }
    columns = [[kind, *(cells[*model, kind] for model in order)] for kind in kinds]
    lines += tables([["model", *(label(name) for _, name in order)]], columns)
    for kind in kinds:
        of_kind = frame[frame["images"] == kind]
        lines += ["", f"## {words_of(kind)}", ""]
        names = ["model", *map(label, of_kind["model"])]
        flags = ["collapsed", *map(words_of_collapse, _rows(of_kind))]
        numbers = {"average": "accuracy", "before": "before", "gain": "gain"}
        if "published_accuracy" in of_kind:
            numbers["published"] = "published_accuracy"
        right = [
            [title, *(percent(value, column == "gain") for value in of_kind[column])]
            for title, column in (numbers | {task: task for task in tasks}).items()
        ]
        lines += tables([names, flags] if any(flags[1:]) else [names], right)
    if "published_source" in frame:
        lines += sources((label(row["model"]), row["published_source"]) for row in _rows(frame))
    return "\n".join(lines) + "\n"


def _rows(frame: pd.DataFrame) -> list[Any]:
    return frame.to_dict("records")


def _before_and_after(row: Mapping[str, Any]) -> str:
    after = percent(row["accuracy"])
    if pd.isna(row["before"]):
        return after
    return f"{percent(row['before'])} → {after}{'!' if row['collapsed'] else ''}"


def words_of(images: str) -> str:
    """Images as a heading: `motion blur, severity 2`."""
    name = images.rstrip("0123456789")
    severity = images.removeprefix(name)
    return f"{name.replace('_', ' ')}, severity {severity}" if severity else images


def corrupted(frame: pd.DataFrame, subject: str = "") -> Figure:
    """Draw average accuracies: a panel per kind of images, a row per model.

    Of an adapter, a hollow point is the accuracy before adaptation, and a line leads to that after
    it, red where it collapsed on average. Lines across are the zero-shot and the fine-tuned models.

    Parameters
    ----------
    frame : what `table` returns.
    """
    kinds = list(dict.fromkeys(frame["images"]))
    shown = frame[~frame["kind"].isin([ZEROSHOT, FINETUNED])]
    order = list(dict.fromkeys(zip(shown["kind"], shown["model"], strict=True)))
    rows, columns = style.grid(len(kinds), 4)
    longest = 0.07 * max((len(label(name)) for _, name in order), default=8)
    width = max(2.2 * columns + longest + 0.4, 6.2)
    height = rows * (0.26 * len(order) + 0.95) + 1.35
    with style.figure(width, height, _HEADING, subject) as fig:
        panels = fig.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        found = dict(zip(order, looks(order), strict=True))
        for axes, kind in zip(panels.flat, kinds, strict=False):
            _panel(axes, frame[frame["images"] == kind], order, found)
            title, _, note = words_of(kind).partition(", ")
            head(axes, title, note, 2.2)
        for axes in panels.flat[len(kinds) :]:
            axes.set_visible(False)
        for axes in last_of_columns(panels, len(kinds)):
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("average test accuracy")
        panels[0, 0].set_yticks(range(len(order)), [label(name) for _, name in order])
        panels[0, 0].set_ylim(len(order) - 0.4, -0.6)
        legend(fig, _key(frame))
        return fig


def _panel(
    axes: Axes,
    of_kind: pd.DataFrame,
    order: Sequence[tuple[str, str]],
    found: Mapping[tuple[str, str], dict[str, Any]],
) -> None:
    for row in _rows(of_kind):
        if row["kind"] in (ZEROSHOT, FINETUNED):
            axes.axvline(
                row["accuracy"], **(style.ZEROSHOT if row["kind"] == ZEROSHOT else style.FINETUNED)
            )
            continue
        place, look = order.index((row["kind"], row["model"])), found[row["kind"], row["model"]]
        fell = bool(row["collapsed"])
        color = style.WARNING if fell else look["color"]
        # Hollow is what was before: colours that stand again are told apart by their row alone.
        filled = {"fillstyle": "full", "markerfacecolor": color, "markeredgecolor": color}
        if not pd.isna(row["before"]):
            axes.plot([row["before"], row["accuracy"]], [place] * 2, color=color, linewidth=1.6)
            hollow = filled | {"markerfacecolor": "white"}
            axes.plot(row["before"], place, **look | hollow, zorder=3)
        axes.plot(row["accuracy"], place, **look | filled, zorder=3)
        axes.annotate(
            f"{100 * row['accuracy']:.1f}",
            (row["accuracy"], place),
            xytext=(0, 6.5),
            textcoords="offset points",
            ha="center",
            fontsize=6.5,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4, "alpha": 0.85},
            color=color if fell else "#222222",
        )
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(style.percent())
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)


def _key(frame: pd.DataFrame) -> list[Line2D]:
    point: dict[str, Any] = {"color": "#555555", "linestyle": "", "markersize": 6}
    handles = [
        Line2D([], [], **style.ZEROSHOT, label=label(ZEROSHOT)),
        Line2D([], [], **style.FINETUNED, label=label(FINETUNED)),
    ]
    if (frame["kind"] == MERGER).any():
        handles.append(Line2D([], [], **point, marker="s", label=WORDS[MERGER]))
    adapters = frame[frame["kind"] == ADAPTER]
    adapted = adapters["before"].notna()
    if adapted.any():
        hollow = {"marker": MARKERS[ADAPTER], "markerfacecolor": "white"}
        handles.append(Line2D([], [], **point | hollow, label="adapter, before"))
        words = "adapter, after" if adapted.all() else "adapter, after (or untrained)"
        handles.append(Line2D([], [], **point, marker=MARKERS[ADAPTER], label=words))
    elif len(adapters):
        handles.append(Line2D([], [], **point, marker=MARKERS[ADAPTER], label=WORDS[ADAPTER]))
    if (frame["kind"] == ORACLE).any():
        handles.append(Line2D([], [], **point, marker=MARKERS[ORACLE], label=WORDS[ORACLE]))
    if frame["collapsed"].map(bool).any():
        handles.append(
            Line2D([], [], color=style.WARNING, marker="o", label="collapsed on average")
        )
    return handles
