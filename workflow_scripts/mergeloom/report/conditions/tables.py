"""The tables of a study of conditions for people: means over seeds, with standard deviations."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd

from mergeloom.report import style
from mergeloom.report.conditions.correlation import FEWEST, MERGED, points_of, rank_correlation
from mergeloom.report.conditions.study import FINETUNED, words_of_log_trace
from mergeloom.report.conditions.tidy import AVERAGE, ZEROSHOT, scaled
from mergeloom.report.markdown import aligned, tables


class Column(NamedTuple):
    """A column of a table: what its numbers are of, and how they are written."""

    title: str
    model: str
    metric: str
    split: str = "test"
    task: str = AVERAGE


Row = tuple[str, str]  # condition, selection


class Numbers:
    """Means and standard deviations over seeds, by what they are of.

    Parameters
    ----------
    summary : what `mergeloom.report.conditions.tidy.over_seeds` returns.
    """

    def __init__(self, summary: pd.DataFrame) -> None:
        keys = ["condition", "selection", "model", "task", "split", "metric"]
        self._values = {
            tuple(key): (float(mean), float(sd))
            for *key, mean, sd in summary[[*keys, "mean", "sd"]].itertuples(index=False)
        }
        experts = summary[summary["model"] != ZEROSHOT]
        pairs = experts[["condition", "selection"]].itertuples(index=False, name=None)
        self.rows: list[Row] = list(dict.fromkeys(pairs))
        """Conditions and selections, in the order of the table."""

    def get(
        self, row: Row, model: str, metric: str, split: str, task: str = AVERAGE
    ) -> tuple[float, float]:
        """Mean and standard deviation; NaN where it was not measured."""
        return self._values.get((*row, model, task, split, metric), (np.nan, np.nan))

    def has(self, model: str) -> bool:
        """Whether anything was measured of a model."""
        return any(key[2] == model for key in self._values)

    def alpha(self, row: Row, merger: str) -> tuple[float, float]:
        """Alpha of a merger, whether it was searched or not."""
        searched = self.get(row, merger, "alpha", "val")
        return self.get(row, merger, "alpha", "") if np.isnan(searched[0]) else searched


def mergers_table(numbers: Numbers, benchmark: str, mergers: Sequence[str]) -> pd.DataFrame:
    """Compare mergers under every condition and selection: average test accuracies.

    Returns
    -------
    DataFrame with the columns benchmark, condition, selection, and for every merger `{merger}`,
    `{merger}_sd`, `{merger}_normalized`, `{merger}_normalized_sd`: fractions.
    """
    rows = []
    for row in numbers.rows:
        line: dict[str, Any] = dict(zip(("condition", "selection"), row, strict=True))
        for merger in mergers:
            for metric, name in (
                ("accuracy", merger),
                ("normalized_accuracy", f"{merger}_normalized"),
            ):
                line[name], line[f"{name}_sd"] = numbers.get(row, merger, metric, "test")
        rows.append({"benchmark": benchmark, **line})
    return pd.DataFrame(rows)


def markdown(
    summary: pd.DataFrame,
    frame: pd.DataFrame,
    tasks: Sequence[str],
    mergers: Sequence[str],
    log_trace: Mapping[str, Any],
    subject: str,
) -> str:
    """Write the tables of a study as Markdown that can be read in a terminal.

    Accuracies are in percent; a number is the mean over seeds ± the sample's standard deviation,
    and the mean alone of one seed.

    Parameters
    ----------
    summary, frame : what `over_seeds` and `tidy` of `mergeloom.report.conditions.tidy` return.
    log_trace : settings that it was estimated by.
    """
    numbers = Numbers(summary)
    seeds = int(summary["seeds"].max())
    several = f"means ± standard deviations over {seeds} seeds" if seeds > 1 else "of one seed"
    of_tasks = (AVERAGE, *tasks)
    lines = [
        f"# Training conditions: {subject}",
        "",
        f"Numbers are {several}; accuracies are in percent,",
        "normalised: relative to the fine-tuned model of the task on the same images. Log-traces",
        f"({words_of_log_trace(log_trace)}) are natural logarithms, on training images;",
        "their average is the mean over tasks.",
        "",
        _zeroshot(numbers, of_tasks),
    ]

    def table(title: str, columns: Iterable[Column]) -> None:
        lines.extend(["", title, "", *_table(numbers, list(columns))])

    def per_task(title: str, model: str, metric: str, split: str) -> None:
        table(title, (Column(task, model, metric, split, task) for task in of_tasks))

    table(
        f"## Overview: averages over tasks, {style.label(mergers[0])}",
        _overview(numbers, mergers[0]),
    )
    lines += ["", "## Mergers: average test accuracy (normalised)", ""]
    lines += _of_mergers(numbers, mergers)
    lines += [
        "",
        "## Rank correlation of log-trace and average test accuracy of the merged model",
        "",
    ]
    lines += _correlations(frame, mergers)
    lines += ["", "## Single task"]
    per_task("### Test accuracy", FINETUNED, "accuracy", "test")
    per_task("### Training accuracy", FINETUNED, "accuracy", "train")
    per_task("### Log-trace", FINETUNED, "log_trace", "train")
    table("### Epoch selected", (Column(t, FINETUNED, "epoch", "", t) for t in tasks))
    for merger in mergers:
        lines += ["", f"## Task addition: {style.label(merger)}"]
        for split, name in (("test", "Test"), ("train", "Training")):
            per_task(f"### {name} accuracy", merger, "accuracy", split)
            per_task(f"### {name} accuracy, normalised", merger, "normalized_accuracy", split)
        per_task("### Log-trace of the merged model", merger, "log_trace", "train")
        if numbers.has(model := scaled(merger)):
            lines += [
                "",
                f"## Scaled single task: each task vector at the α of {style.label(merger)}",
            ]
            for split, name in (("test", "Test"), ("train", "Training")):
                per_task(f"### {name} accuracy", model, "accuracy", split)
                per_task(f"### {name} accuracy, normalised", model, "normalized_accuracy", split)
            per_task("### Log-trace of the scaled model", model, "log_trace", "train")
    return "\n".join(lines) + "\n"


def _zeroshot(numbers: Numbers, tasks: Sequence[str]) -> str:
    values = (numbers.get(("", ""), ZEROSHOT, "accuracy", "test", task)[0] for task in tasks)
    listed = ", ".join(f"{t} {100 * value:.1f}" for t, value in zip(tasks, values, strict=True))
    return f"Zero-shot test accuracy: {listed}."


def _overview(numbers: Numbers, merger: str) -> list[Column]:
    columns = [
        Column("single task", FINETUNED, "accuracy"),
        Column("merged", merger, "accuracy"),
        Column("normalised", merger, "normalized_accuracy"),
        Column("α", merger, "alpha"),
        Column("log-trace", FINETUNED, "log_trace", "train"),
    ]
    if numbers.has(scaled(merger)):
        columns.insert(3, Column("scaled single", scaled(merger), "accuracy"))
    return columns


def _table(numbers: Numbers, columns: Sequence[Column]) -> list[str]:
    def cell(row: Row, column: Column) -> str:
        if column.metric == "alpha":
            return _cell(*numbers.alpha(row, column.model), "alpha")
        found = numbers.get(row, column.model, column.metric, column.split, column.task)
        return _cell(*found, column.metric)

    return _lines(numbers.rows, [c.title for c in columns], lambda row, i: cell(row, columns[i]))


def _of_mergers(numbers: Numbers, mergers: Sequence[str]) -> list[str]:
    def cell(row: Row, index: int) -> str:
        absolute, normalized = (
            _cell(*numbers.get(row, mergers[index], metric, "test"), metric)
            for metric in ("accuracy", "normalized_accuracy")
        )
        return f"{absolute} ({normalized})"

    return _lines(numbers.rows, mergers, cell)


def _correlations(frame: pd.DataFrame, mergers: Sequence[str]) -> list[str]:
    rows = [["merger", "log-trace of", "Spearman's ρ", "95% interval", "points", "conditions"]]
    for merger in mergers:
        points = points_of(frame, merger)
        for column, words in ((FINETUNED, "fine-tuned models"), (MERGED, "merged model")):
            found = rank_correlation(
                points[column], points["accuracy"], points["condition"].tolist()
            )
            value = "" if np.isnan(found.value) else f"{found.value:.2f}"
            interval = "" if np.isnan(found.low) else f"{found.low:.2f} to {found.high:.2f}"
            if interval and found.conditions < FEWEST:
                interval += ", not to be relied on"
            counts = [str(found.points), str(found.conditions)]
            rows.append([merger, words, value, interval, *counts])
    columns = list(zip(*rows, strict=True))
    return aligned(columns[:2], columns[2:])


def _lines(
    rows: Sequence[Row], titles: Sequence[str], cell: Callable[[Row, int], str]
) -> list[str]:
    """Lines of a Markdown table, its columns aligned; of several tables where one is too wide."""
    cells = [[cell(row, index) for row in rows] for index in range(len(titles))]
    head = [["condition", *(row[0] for row in rows)], ["selection", *(row[1] for row in rows)]]
    body = [[title, *column] for title, column in zip(titles, cells, strict=True)]
    return tables(head, body)


_DECIMALS: Final = {"log_trace": 2, "alpha": 2, "epoch": 1}


def _cell(mean: float, sd: float, metric: str) -> str:
    """`mean ± sd`, accuracies in percent; nothing where it was not measured."""
    if np.isnan(mean):
        return ""
    decimals = _DECIMALS.get(metric, 1)
    factor = 1 if metric in _DECIMALS else 100
    spread = "" if np.isnan(sd) else f" ± {factor * sd:.{decimals}f}"
    return f"{factor * mean:.{decimals}f}{spread}"
