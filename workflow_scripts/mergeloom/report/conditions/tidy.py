"""The tidy table of a study of conditions: a row per number."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd

from mergeloom.report.conditions.study import FINETUNED, Measured
from mergeloom.report.results import Result

COLUMNS: Final = [
    "condition", "selection", "seed", "model", "task", "split", "metric", "value",
]  # fmt: skip
KEYS: Final = ["condition", "selection", "model", "task", "split", "metric"]
"""What a number of a study is of, but for the seed."""
AVERAGE: Final = "average"
SCORES: Final = ("accuracy", "normalized_accuracy", "loss")
AVERAGED: Final = ("accuracy", "normalized_accuracy", "log_trace")
ZEROSHOT: Final = "zeroshot"


def scaled(merger: str) -> str:
    """Name of the model θ0 + α τ_t of each task, at the alpha that the merger's search chose."""
    return f"{merger}.scaled"


def tidy(study: Sequence[Measured], zeroshot: Result, tasks: Sequence[str]) -> pd.DataFrame:
    """Put everything that was measured into rows.

    Returns
    -------
    DataFrame with the columns

    - condition, selection, seed: of the experts; empty for zero-shot, which is the same for all,
    - model: `zeroshot`, `finetuned` (each task's own), a merger, or `{merger}.scaled`,
    - task: or `average`, the mean over tasks; of log-traces, too, the mean, which is the log of the
      geometric mean of the traces,
    - split: of the images (`train`, `val`, `test`), empty where there are none,
    - metric: `accuracy` and `normalized_accuracy` (fractions), `loss` (nats), `log_trace` and
      `log_trace_se` (natural logarithm), `alpha` (of the average; on the split it was chosen on),
      `epoch` (that the selection takes) and `steps` (of the optimizer until then),
    - value.

    Zero-shot is measured on test images alone: validation images may differ with the balancing.
    """
    rows = [
        (measured.condition, measured.selection, measured.seed, *row)
        for measured in study
        for row in _of_collection(measured, tasks)
    ]
    only_absolute = {
        task: {"accuracy": score["accuracy"], "loss": score["loss"]}
        for task, score in zeroshot["tasks"].items()
    }
    rows += [("", "", None, ZEROSHOT, *row) for row in _scores(only_absolute, tasks, "test")]
    frame = pd.DataFrame(rows, columns=COLUMNS)
    return frame.astype({"seed": "Int64", "value": float})


def _of_collection(measured: Measured, tasks: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    for task, row in measured.selected.items():
        yield FINETUNED, task, "", "epoch", row["epoch"]
        yield FINETUNED, task, "", "steps", row["step"]
    for model, result in measured.results.items():
        measures = measured.measures[model]
        if result["alpha"] is not None:
            split = "val" if result["alpha"]["how"] == "search" else ""
            yield model, AVERAGE, split, "alpha", result["alpha"]["value"]
        yield from ((model, *row) for row in _measures(measures["tasks"], tasks))
        if result.get("validation"):
            validation = result["validation"]["tasks"]
            yield from ((model, *row) for row in _scores(validation, tasks, "val"))
        yield from ((model, *row) for row in _scores(result["tasks"], tasks, "test"))
        if measures.get("scaled"):
            name = scaled(model)
            yield from ((name, *row) for row in _measures(measures["scaled"], tasks))
            tested = {task: measures["scaled"][task]["test"] for task in tasks}
            yield from ((name, *row) for row in _scores(tested, tasks, "test"))


def _measures(found: Mapping[str, Any], tasks: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Scores and log-trace on training images."""
    scores = {
        task: found[task]["train"]
        | {
            "log_trace": found[task]["log_trace"]["value"],
            "log_trace_se": found[task]["log_trace"]["standard_error"],
        }
        for task in tasks
    }
    return _scores(scores, tasks, "train")


def _scores(
    found: Mapping[str, Mapping[str, float]], tasks: Sequence[str], split: str
) -> Iterator[tuple[str, str, str, float]]:
    """Rows task, split, metric, value of every task and of their average."""
    for metric in (*SCORES, "log_trace", "log_trace_se"):
        values = [found[task][metric] for task in tasks if metric in found[task]]
        if not values:
            continue
        yield from ((task, split, metric, value) for task, value in zip(tasks, values, strict=True))
        if metric in AVERAGED:
            yield AVERAGE, split, metric, sum(values) / len(values)


def over_seeds(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation over seeds of every number of a tidy table.

    Returns
    -------
    DataFrame with the columns condition, selection, model, task, split, metric, mean, sd and seeds:
    sd is that of a sample (divided by n − 1), NaN of a single seed; seeds is n. Standard errors of
    log-traces, which are within a seed, are left out.
    """
    groups = frame[frame["metric"] != "log_trace_se"].groupby(KEYS, sort=False)["value"]
    return groups.agg(mean="mean", sd="std", seeds="count").reset_index()


def read_tidy(path: str | Path) -> pd.DataFrame:
    """Read back a tidy table from CSV."""
    words = dict.fromkeys(KEYS, "str")
    # A condition may be called "none", which is no missing value.
    return pd.read_csv(
        path, dtype=words | {"seed": "Int64"}, keep_default_na=False, na_values={"seed": [""]}
    )
