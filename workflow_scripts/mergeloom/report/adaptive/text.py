"""The tables of a study of adapters for people, as Markdown that can be read in a terminal."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import pandas as pd

from mergeloom.report.adaptive.study import ADAPTER, AVERAGE, ORACLE, SPLITS, TRANSFERRED, label
from mergeloom.report.adaptive.tables import METRICS, competing, tasks_of
from mergeloom.report.markdown import tables

_METRICS: Final = {
    "label_accuracy": "Accuracy among the task's answers (label-restricted)",
    "valid_rate": "Share of generated texts that are an answer of the task (valid-label rate)",
    "mcc": "Matthews correlation",
    "top5": "Accuracy among five",
    "mean_class_recall": "Mean recall of classes",
    "ece": "Expected calibration error",
}


Row = Mapping[str, Any]


def markdown(frame: pd.DataFrame, subject: str, scored_by: Mapping[str, str]) -> str:
    """Write the tables of a study; accuracies are in percent.

    Parameters
    ----------
    frame : what `mergeloom.report.adaptive.tables.summary` returns.
    scored_by : tasks that are scored by something else than accuracy → by what.
    """
    tasks = tasks_of(frame)
    names = ["model", *map(_name, _rows(frame))]
    lines = [
        f"# Adapters: {subject}",
        "",
        "Numbers are in percent, of test inputs; normalised: relative to the fine-tuned model of",
        "the task. Before: the same model at step 0, on the same inputs; gain: what adaptation",
        "added. Coefficients are of a batch or of each sample: while it adapts → in evaluation;",
        "mixed: in batches of all tasks shuffled together, coefficients averaged over each.",
    ]
    if scored_by:
        found = ", ".join(f"{task} by {_by(how)}" for task, how in scored_by.items())
        lines.append(f"Scored otherwise than by accuracy: {found}.")
    lines += ["", "## Averages over tasks", ""]
    words = {
        "adapted on": lambda row: SPLITS.get(row["adapted_on"], row["adapted_on"]),
        "coefficients": _granularity,
        "collapsed": collapse,
    }
    numbers = {
        "accuracy": "accuracy",
        "before": "before",
        "gain": "gain",
        "normalised": "normalized_accuracy",
        "mixed": "mixed_batches",
        "published": "published_accuracy",
    }
    left = [names] + [[title, *map(of, _rows(frame))] for title, of in words.items()]
    right = [
        [title, *_cells(frame, column, signed=column == "gain")]
        for title, column in numbers.items()
        if frame[column].notna().any()
    ]
    lines += tables([c for c in left if any(c[1:])], right)
    lines += _notes(frame)
    lines += ["", "## Test accuracy by task", ""]
    lines += tables([names], [["average", *_best(frame, "accuracy")], *_by_task(frame, _best)])
    lines += ["", "## Normalised accuracy by task", ""]
    average = ["average", *_cells(frame, "normalized_accuracy")]
    lines += tables([names], [average, *_by_task(frame, _cells, "_normalized")])
    adapters = frame[frame["before"].notna()]
    if not adapters.empty:
        lines += ["", "## Gain over the value before adaptation", ""]
        gains = adapters.assign(**{t: adapters[t] - adapters[f"{t}_before"] for t in tasks})
        columns = {"average": "gain"} | {task: task for task in tasks}
        lines += tables(
            [["model", *map(_name, _rows(gains))]],
            [[title, *_cells(gains, c, signed=True)] for title, c in columns.items()],
        )
    for metric in METRICS:
        columns = {t: f"{t}_{metric}" for t in tasks if f"{t}_{metric}" in frame}
        if columns:
            lines += ["", f"## {_METRICS[metric]}", ""]
            lines += tables([names], [[t, *_cells(frame, c)] for t, c in columns.items()])
    lines += ["", "## Parameters", ""]
    lines += tables(
        [names],
        [
            [title, *(f"{row[f'{title}_parameters']:,}" for row in _rows(frame))]
            for title in ("trainable", "stored")
        ],
    )
    return "\n".join(lines) + "\n"


def _rows(frame: pd.DataFrame) -> list[Any]:
    return frame.to_dict("records")


def _name(row: Row) -> str:
    name = label(row["model"], row["transferred_from"])
    told = row["per_task"] and row["kind"] != "finetuned"
    return f"{name} \\*" if told else f"{name} †" if row["kind"] == ORACLE else name


def _by(how: str) -> str:
    return {"spearman": "Spearman's ρ", "mcc": "Matthews correlation"}.get(how, how)


def _granularity(row: Row) -> str:
    """What coefficients are of: while it adapts → in evaluation."""
    found = [row["adaptation_granularity"], row["evaluation_granularity"]]
    return " → ".join(filter(None, found))


def collapse(row: Row) -> str:
    """Where an adapter collapsed (average, tasks) in a few words, `no`, or nothing if untrained."""
    if row["collapsed"] not in (True, False):
        return ""
    fell = [AVERAGE] * bool(row["collapsed"]) + list(filter(None, [row["collapsed_tasks"]]))
    return shortened(", ".join(fell)) or "no"


def shortened(names: str) -> str:
    """Of a list with commas, the first name and how many more there are; two are told."""
    first, *others = names.split(", ")
    return names if len(others) < 2 else f"{first}, {len(others)} more"


def _cells(frame: pd.DataFrame, column: str, signed: bool = False) -> list[str]:
    return [percent(value, signed) for value in frame[column]]


def percent(value: float, signed: bool = False) -> str:
    """A fraction in percent with one decimal; nothing where it is NaN."""
    if math.isnan(value):
        return ""
    return f"{100 * value:{'+' if signed else ''}.1f}".replace("-", "−")


def _best(frame: pd.DataFrame, column: str) -> list[str]:
    """Cells of a column, bold the best of those that compete."""
    best = frame.loc[competing(frame), column].round(3).max()
    wins = competing(frame) & (frame[column].round(3) == best)
    cells = _cells(frame, column)
    return [f"**{cell}**" if won else cell for cell, won in zip(cells, wins, strict=True)]


def _by_task(
    frame: pd.DataFrame, cells: Callable[..., list[str]], ending: str = ""
) -> list[list[str]]:
    return [[task, *cells(frame, f"{task}{ending}")] for task in tasks_of(frame)]


def _notes(frame: pd.DataFrame) -> list[str]:
    notes = []
    if (frame["per_task"].astype(bool) & (frame["kind"] != "finetuned")).any():
        notes.append("\\* one model per task, which is told its task")
    if (frame["kind"] == ORACLE).any():
        notes.append("† an oracle: fitted on inputs with the task that they are of")
    adapted = frame[frame["kind"].isin([ADAPTER, TRANSFERRED])]
    if (adapted["adapted_on"] == "test").any():
        notes.append(
            "Adapted on test inputs: without labels, on the very inputs that the accuracy is of"
        )
    if frame["collapsed"].map(bool).any() or frame["collapsed_tasks"].map(bool).any():
        notes.append(
            "Collapsed: there entropy fell while validation accuracy fell by more than a point, too"
        )
    lines = [line for note in notes for line in ("", note)]
    return lines + sources((_name(row), row["published_source"]) for row in _rows(frame))


def sources(published: Iterable[tuple[str, str]]) -> list[str]:
    """Lines that say where figures of models, given with their names, were published."""
    found = dict.fromkeys(f"- {name}: {source}" for name, source in published if source)
    return ["", "Published:", "", *found] if found else []
