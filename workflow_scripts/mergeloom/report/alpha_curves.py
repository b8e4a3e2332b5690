"""Accuracy over alpha: what the search on the validation splits saw, and what it chose."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from mergeloom.report import style
from mergeloom.report.results import Result, in_order

_HEADING = "Validation accuracy over alpha"
_STEPS = [1, 2, 2.5, 5, 10]
_TOGETHER = 8  # mergers in one panel


def alpha_curves(
    results: Iterable[Result], tasks: Sequence[str] | None = None, subject: str = ""
) -> Figure:
    """Draw normalized validation accuracy over alpha: the average, and a small multiple per task.

    More than eight mergers would not be told apart: each whose alpha was searched then gets a small
    multiple of its own, with the average over tasks and, thin, the tasks.

    A merger with a searched alpha is a curve, its choice marked on it, hollow if it is the
    first or last of the grid, where a better alpha may lie beyond. One with a fixed alpha is a
    single point, if its result holds validation accuracies; one without alpha is not drawn.
    Zero-shot and fine-tuned are lines.

    Parameters
    ----------
    results : contents of the result JSONs of one benchmark, as for the summary.
    tasks : order of the small multiples; default: as in the first result.

    Raises
    ------
    MergeloomError
        The results do not belong together, see `mergeloom.report.results.in_order`.
    """
    ordered = in_order(results, tasks)
    tasks = list(tasks or ordered[0]["tasks"])
    mergers = [r for r in ordered if r["merger"]["name"] not in ("zeroshot", "finetuned")]
    zeroshot = next((r for r in ordered if r["merger"]["name"] == "zeroshot"), None)
    if len(mergers) > _TOGETHER:
        return _by_merger(mergers, zeroshot, tasks, subject)
    rows, columns = style.grid(len(tasks), 5)
    with style.figure(1.95 * columns + 5.4, max(4.6, 1.55 * rows + 1.9), _HEADING, subject) as fig:
        halves: Any = fig.subfigures(1, 2, width_ratios=[5.4, 1.95 * columns])
        large, small = halves
        average = large.add_subplot()
        grid = small.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes, task in [(average, None), *zip(grid.flat, tasks, strict=False)]:
            _panel(axes, mergers, zeroshot, task, ticks=6 if task is None else 3)
            axes.set_xlim(0, 1.05 * _last_alpha(mergers))
        for axes in grid.flat[len(tasks) :]:
            axes.set_visible(False)
        average.set_title("average over tasks (marker: the α used)")
        average.set_xlabel("α")
        average.set_ylabel("normalized accuracy on validation data")
        small.supxlabel("α", fontsize=9)
        handles, labels = average.get_legend_handles_labels()
        large.legend(handles, labels, loc="outside lower center", ncols=2)
        return fig


def _by_merger(
    mergers: Sequence[Result], zeroshot: Result | None, tasks: Sequence[str], subject: str
) -> Figure:
    searched = [r for r in mergers if r["alpha"] and r["alpha"].get("curve")]
    rows, columns = style.grid(len(searched), 5)
    with style.figure(2.3 * columns + 0.6, 1.9 * rows + 1.5, _HEADING, subject) as fig:
        grid: Any = fig.subplots(rows, columns, sharey=True, squeeze=False)
        for axes, result in zip(grid.flat, searched, strict=False):
            steps = [point["alpha"] for point in result["alpha"]["curve"]]
            for task in tasks:
                values = [_value(point, task) for point in result["alpha"]["curve"]]
                axes.plot(steps, values, color="#b5b5b5", linewidth=0.7, label="one task")
            _panel(axes, [], zeroshot, None, ticks=3)
            _merger(axes, result, None, style.series(0))
            chosen = axes.lines[-1].get_label()
            axes.set_title(str(chosen).replace(": α", ", α"), fontsize=9)
            axes.lines[-1].set_label("average over tasks (marker: the α chosen)")
            axes.set_xlim(0, 1.05 * max(steps))
            axes.set_xlabel("α")
        for axes in grid.flat[len(searched) :]:
            axes.set_visible(False)
        for axes in grid[:, 0]:
            axes.set_ylabel("normalized")
        handles, labels = grid.flat[0].get_legend_handles_labels()
        shown = dict(zip(labels, handles, strict=True))
        fig.legend(list(shown.values()), list(shown), loc="outside lower center", ncols=4)
        return fig


def _panel(
    axes: Axes,
    mergers: Sequence[Result],
    zeroshot: Result | None,
    task: str | None,
    ticks: int,
) -> None:
    axes.axhline(1, **style.FINETUNED, label=style.label("finetuned"))
    level = None if zeroshot is None else _validation(zeroshot, task)
    if level is not None:
        axes.axhline(level, **style.ZEROSHOT, label=style.label("zeroshot"))
    for index, result in enumerate(mergers):
        _merger(axes, result, task, style.series(index))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.yaxis.set_major_locator(MaxNLocator(ticks, steps=_STEPS))
    axes.xaxis.set_major_locator(MaxNLocator(ticks, steps=_STEPS))
    if task is not None:
        axes.set_title(task, fontsize=9)


def _merger(axes: Axes, result: Result, task: str | None, look: dict[str, Any]) -> None:
    alpha = result["alpha"]
    if alpha is None:
        return
    name = style.label(result["merger"]["name"])
    curve = sorted(alpha.get("curve", ()), key=lambda point: point["alpha"])
    if curve:
        steps = np.array([point["alpha"] for point in curve])
        values = np.array([_value(point, task) for point in curve])
        chosen = int(np.argmin(np.abs(steps - alpha["value"])))
        at_edge = len(curve) > 1 and chosen in (0, len(curve) - 1)
        if at_edge:
            look = look | {"markerfacecolor": "white"}
        note = " (edge of grid)" if at_edge else ""
        text = f"{name}: α = {alpha['value']:g}{note}"
        axes.plot(steps, values, **look, markevery=[chosen], label=text)
        return
    level = _validation(result, task)
    if level is not None:
        point = look | {"linestyle": ""}
        axes.plot(
            alpha["value"], level, **point, label=f"{name}: α = {alpha['value']:g} ({alpha['how']})"
        )


def _value(point: dict[str, Any], task: str | None) -> float:
    return (point if task is None else point["tasks"][task])["normalized_accuracy"]


def _validation(result: Result, task: str | None) -> float | None:
    measured = result.get("validation")
    if not measured:
        return None
    return (measured["average"] if task is None else measured["tasks"][task])["normalized_accuracy"]


def _last_alpha(mergers: Sequence[Result]) -> float:
    alphas = [result["alpha"] for result in mergers if result["alpha"] is not None]
    steps = [point["alpha"] for alpha in alphas for point in alpha.get("curve", ())]
    return max([alpha["value"] for alpha in alphas] + steps, default=0) or 1.0
