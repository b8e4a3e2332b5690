"""The summary of a study of adapters, and what its models cost."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd

from mergeloom.errors import MergeloomError
from mergeloom.io.headers import read_header
from mergeloom.models.naming import Naming
from mergeloom.report.adaptive.study import (
    ADAPTER,
    MERGER,
    ORACLE,
    TRANSFERRED,
    Model,
    collapse,
    source_of,
)
from mergeloom.report.published import Figure
from mergeloom.report.results import Result

NAN: Final = float("nan")
METRICS: Final = ("label_accuracy", "valid_rate", "mcc", "top5", "mean_class_recall", "ece")
"""Metrics of text, and those on request; where a result has them."""

COST: Final = ("trainable_parameters", "stored_parameters")
MEASURED: Final = (
    "adaptation_seconds", "seconds_per_step", "evaluation_seconds", "examples_per_second",
    "device", "threads",
)  # fmt: skip
_WORDS: Final = (
    "model", "kind", "method", "transferred_from", "adapted_on", "adaptation_granularity",
    "collapsed_tasks", "evaluation_granularity", "form", "published_source",
)  # fmt: skip


def summary(
    models: Sequence[Model], tasks: Sequence[str], published: Iterable[Figure], tower: int
) -> pd.DataFrame:
    """Put the models of a study into a table.

    Parameters
    ----------
    models : in the order of their rows, see `mergeloom.report.adaptive.study.read_models`.
    published : figures of the models' encoder, experts and benchmark; those of an adapter from
        another encoder have the method `{adapter}.from.{encoder}`.
    tower : parameters of the part that is fine-tuned: what a merged model stores. Models that are
        told their task store one for each, as they are stored here.

    Returns
    -------
    DataFrame with a row per model and the columns model, kind (zeroshot, merger, adapter,
    transferred, oracle, finetuned), transferred_from, method, per_task (told its task), alpha;
    adapted_on (the split of the unlabelled inputs), adaptation_granularity, steps, chosen (the step
    that was taken), stopped_early, collapsed (on average; None where nothing is minimised),
    collapsed_tasks; evaluation_granularity, form, error
    (of a low-rank form); before (average accuracy before adaptation, on the same inputs), accuracy,
    gain (their difference), normalized_accuracy, mixed_batches (accuracy in batches of all tasks);
    trainable_parameters, stored_parameters; published_accuracy, published_source; and per task
    `{task}`, `{task}_normalized`, `{task}_before`, `{task}_published`, and the metrics of text and
    on request. Accuracies are fractions; what a model has not is empty.
    """
    known: dict[str, dict[str, Figure]] = {}
    for figure in published:
        if not figure.images:
            known.setdefault(figure.method, {})[figure.task] = figure
    metrics = {
        task: [m for m in METRICS if any(m in model.result["tasks"][task] for model in models)]
        for task in tasks
    }
    rows = []
    for model in models:
        method = model.name + (f".from.{model.source}" if model.source else "")
        rows.append(_row(model, metrics, known.get(method, {}), tower))
    return pd.DataFrame(rows)


def tower_size(base: str, naming: Naming) -> int:
    """Parameters of the part of a base that is fine-tuned, by the header of its file."""
    shapes = {key: shape for key, (_, shape) in read_header(base).tensors.items()}
    return sum(
        math.prod(shape) for key, shape in shapes.items() if naming.kind(key, shape) != "frozen"
    )


def _row(
    model: Model,
    metrics: Mapping[str, Sequence[str]],
    published: Mapping[str, Figure],
    tower: int,
) -> dict[str, Any]:
    result = model.result
    before = (result.get("before") or {"average": {}})["average"].get("accuracy", NAN)
    mixed = (result.get("mixed_batches") or {"average": {}})["average"].get("accuracy", NAN)
    row: dict[str, Any] = {
        "model": model.name,
        "kind": model.kind,
        "transferred_from": model.source,
        **(_of_merger(result) if "merger" in result else _of_adapter(result)),
        "before": before,
        "accuracy": result["average"]["accuracy"],
        "gain": result["average"]["accuracy"] - before,
        "normalized_accuracy": result["average"]["normalized_accuracy"],
        "mixed_batches": mixed,
        **_parameters(result, len(metrics), tower),
        "published_accuracy": published[""].accuracy if "" in published else NAN,
        "published_source": published[""].source if "" in published else "",
    }
    earlier = (result.get("before") or {"tasks": {}})["tasks"]
    for task, measured in metrics.items():
        score = result["tasks"][task]
        row[task] = score["accuracy"]
        row[f"{task}_normalized"] = score["normalized_accuracy"]
        row[f"{task}_before"] = earlier[task]["accuracy"] if task in earlier else NAN
        row[f"{task}_published"] = published[task].accuracy if task in published else NAN
        row |= {f"{task}_{metric}": score.get(metric, NAN) for metric in measured}
    return row


def _of_merger(result: Mapping[str, Any]) -> dict[str, Any]:
    alpha = result["alpha"]
    return {
        **_NOTHING,
        "method": result["merger"]["method"] or "",
        "per_task": result["merger"]["per_task"],
        "alpha": alpha["value"] if alpha else NAN,
    }


def _of_adapter(result: Mapping[str, Any]) -> dict[str, Any]:
    evaluation, adaptation = result["evaluation"], result.get("adaptation")
    row = {
        **_NOTHING,
        "method": result["adapter"]["method"],
        "evaluation_granularity": evaluation["granularity"],
        "form": evaluation["form"],
        "error": evaluation.get("error", NAN),
    }
    if adaptation:
        fell = collapse(result)
        row |= {
            "adapted_on": adaptation["split"],
            "adaptation_granularity": adaptation.get("granularity", ""),
            "steps": adaptation.get("steps", NAN),
            "chosen": adaptation.get("chosen", NAN),
            "stopped_early": adaptation.get("stopped_early"),
            "collapsed": fell.average,
            "collapsed_tasks": ", ".join(fell.tasks),
        }
    return row


_NOTHING: Final[dict[str, Any]] = {
    "method": "",
    "per_task": False,
    "alpha": NAN,
    "adapted_on": "",
    "adaptation_granularity": "",
    "steps": NAN,
    "chosen": NAN,
    "stopped_early": None,
    "collapsed": None,
    "collapsed_tasks": "",
    "evaluation_granularity": "",
    "form": "",
    "error": NAN,
}


def _parameters(result: Mapping[str, Any], tasks: int, tower: int) -> dict[str, int]:
    if "adapter" in result:
        return {
            f"{what}_parameters": result["parameters"][what] for what in ("trainable", "stored")
        }
    copies = tasks if result["merger"]["per_task"] else 1
    return {"trainable_parameters": 0, "stored_parameters": copies * tower}


def tasks_of(frame: pd.DataFrame) -> list[str]:
    """Tasks of a summary, in its order."""
    return [column for column in frame.columns if f"{column}_before" in frame.columns]


def read_summary(path: str | Path) -> pd.DataFrame:
    """Read a summary back; words that a model has not are empty, flags None."""
    frame = pd.read_csv(path, dtype=dict.fromkeys(_WORDS, str))
    for flag in ("collapsed", "stopped_early"):
        frame[flag] = [None if pd.isna(value) else bool(value) for value in frame[flag]]
    return frame.fillna(dict.fromkeys(_WORDS, ""))


def competing(frame: pd.DataFrame) -> pd.Series:
    """Which rows are one model for all tasks that is made of the experts and told nothing more."""
    return frame["kind"].isin([MERGER, ADAPTER, TRANSFERRED]) & ~frame["per_task"].astype(bool)


def cost(
    frame: pd.DataFrame, adapters: Sequence[Result], times: Sequence[Mapping[str, Any]]
) -> pd.DataFrame:
    """Put what models store, train and take into a table.

    Parameters
    ----------
    frame : what `summary` returns.
    adapters, times : results of the adapters, and what was measured of each: adaptation_seconds,
        seconds_per_step, evaluation_seconds, examples_per_second, device, threads.

    Returns
    -------
    DataFrame with a row per row of the summary and the columns model, kind, transferred_from,
    accuracy, trainable_parameters, stored_parameters, the times (NaN of models that are not
    adapters, and of what an adapter does not do), device, threads.

    Raises
    ------
    MergeloomError – an adapter of the summary was not given.
    """
    measured = {
        (result["adapter"]["name"], source_of(result)): found
        for result, found in zip(adapters, times, strict=True)
    }
    rows = []
    for _, row in frame.iterrows():
        place = (row["model"], row["transferred_from"])
        is_adapter = row["kind"] in (ADAPTER, TRANSFERRED, ORACLE)
        if is_adapter and place not in measured:
            raise MergeloomError(
                f"{' from '.join(filter(None, place))} stands in the summary, but its "
                ".times.json was not given: evaluate it again"
            )
        found = measured[place] if is_adapter else {}
        rows.append(
            {
                **{k: row[k] for k in ("model", "kind", "transferred_from", "accuracy", *COST)},
                **{key: found.get(key) for key in MEASURED},
            }
        )
    return pd.DataFrame(rows).astype({"threads": "Int64"})
