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


def alpha_curves(
    results: Iterable[Result], tasks: Sequence[str] | None = None, subject: str = ""
) -> Figure:
    """Draw normalized validation accuracy over alpha: the average, and a small multiple per task.

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
    rows, columns = style.grid(len(tasks), 5)
    with style.figure(1.95 * columns + 5.4, max(4.6, 1.55 * rows + 1.9), _HEADING, subject) as fig:
        halves: Any = fig.subfigures(1, 2, width_ratios=[5.4, 1.95 * columns])
        large, small = halves
        average = large.add_subplot()
        grid = small.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes, task in [(average, None), *zip(grid.flat, tasks, strict=False)]:
            _panel(axes, mergers, zeroshot, task)
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


def _panel(
    axes: Axes, mergers: Sequence[Result], zeroshot: Result | None, task: str | None
) -> None:
    large = task is None
    axes.axhline(1, **style.FINETUNED, label=style.label("finetuned"))
    level = None if zeroshot is None else _validation(zeroshot, task)
    if level is not None:
        axes.axhline(level, **style.ZEROSHOT, label=style.label("zeroshot"))
    for index, result in enumerate(mergers):
        _merger(axes, result, task, style.series(index))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.yaxis.set_major_locator(MaxNLocator(6 if large else 3, steps=_STEPS))
    axes.xaxis.set_major_locator(MaxNLocator(6 if large else 3, steps=_STEPS))
    if not large:
        axes.set_title(str(task), fontsize=9)


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
