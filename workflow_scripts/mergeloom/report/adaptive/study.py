"""What was measured in a study of adapters, read and checked to belong together."""

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import pandas as pd

from mergeloom.errors import MergeloomError
from mergeloom.evaluation.results import read_result
from mergeloom.io.jsonfile import read_json
from mergeloom.report import style
from mergeloom.report.results import Result, check_alike

SCHEMA: Final = "mergeloom/adaptive/1"
ZEROSHOT, MERGER, ADAPTER, TRANSFERRED, ORACLE, FINETUNED = (
    "zeroshot", "merger", "adapter", "transferred", "oracle", "finetuned",
)  # fmt: skip
KINDS: Final = (ZEROSHOT, MERGER, ADAPTER, TRANSFERRED, ORACLE, FINETUNED)
"""Kinds of models in the order of their rows: an oracle is told of the tasks as it is fitted."""

AVERAGE: Final = "average"
SPLITS: Final = {
    "test": "test inputs",
    "val": "validation inputs",
    "train_unlabelled": "training inputs",
}
"""Splits that adapters adapt on, in words."""

_ORACLES: Final = ("task_classifier",)
_CURVE: Final = ("step", "task", "entropy", "val_accuracy")
_COEFFICIENTS: Final = ("task", "expert", "layer", "mean")


class Model(NamedTuple):
    """A model of a study: its kind, the preset's name, and what its JSON holds.

    source : the encoder that a transferred adapter was trained on; else empty.
    """

    kind: str
    name: str
    source: str
    result: Result


def label(name: str, source: str = "") -> str:
    """A model's name as a person would write it: `dawe task wise, from ViT-B-32`."""
    return style.label(name) + (f", from {source}" if source else "")


def subject(place: Any) -> str:
    """What a study is of, as tables and figures are headed: by the wildcards of its rules."""
    return ", ".join((place.encoder, place.experts, place.benchmark, place.study))


def read_models(
    mergers: Iterable[str], adapters: Iterable[str], tasks: Sequence[str]
) -> list[Model]:
    """Read the results of a study: paths of those of static mergers, and of those of adapters.

    Returns
    -------
    The models by kind, in the order of `KINDS`; those of one kind in the order given.

    Raises
    ------
    MergeloomError – the results do not belong together, see `mergeloom.report.results.in_order`.
    """
    results = [read_result(path) for path in mergers]
    results += [read_json(path, SCHEMA) for path in adapters]
    return models(results, tasks)


def models(results: Sequence[Result], tasks: Sequence[str]) -> list[Model]:
    """The same of results that were read already."""
    check_alike(results, tasks)
    return sorted(map(_model, results), key=lambda model: KINDS.index(model.kind))


def _model(result: Result) -> Model:
    if "merger" in result:
        merger = result["merger"]["name"]
        kind = merger if merger in (ZEROSHOT, FINETUNED) else MERGER
        return Model(kind, merger, "", result)
    adapter = result["adapter"]
    if source := source_of(result):
        return Model(TRANSFERRED, adapter["name"], source, result)
    kind = ORACLE if adapter["method"] in _ORACLES else ADAPTER
    return Model(kind, adapter["name"], "", result)


def source_of(result: Result) -> str:
    """The encoder that an adapter was transferred from, or nothing."""
    return str((result.get("transferred_from") or {"encoder": ""})["encoder"])


def scored_by(models: Iterable[Model]) -> dict[str, str]:
    """Tasks that are scored by something else than accuracy, and by what."""
    return {
        task: how for model in models for task, how in model.result.get("scored_by", {}).items()
    }


class Collapse(NamedTuple):
    """Whether an adapter collapsed, by the flags of its result.

    average : on average over tasks, which is to say that the adapter did; None where nothing was
        minimised.
    tasks : on which of them.
    """

    average: bool | None
    tasks: list[str]


def collapse(result: Result) -> Collapse:
    """Where entropy fell, and validation accuracy by more than a point, too."""
    flags = (result.get("adaptation") or {}).get("collapsed")
    return Collapse(flags["average"], list(flags["tasks"])) if flags else Collapse(None, [])


def read_curve(path: str, tasks: Sequence[str]) -> pd.DataFrame:
    """The curve of an adapter: a row per step and task, `average` among them, by step.

    Without rows where the adapter is not trained.

    Raises
    ------
    MergeloomError – a column is missing, or a task, or the value before adaptation (step 0).
    """
    curve = pd.read_parquet(path)
    _check_columns(path, curve, _CURVE)
    missing = [task for task in (AVERAGE, *tasks) if task not in set(curve["task"])]
    if len(curve) and (missing or not (curve["step"] == 0).any()):
        what = ", ".join(missing) or "step 0, which is before adaptation"
        raise MergeloomError(f"{path}: has no rows of {what}.\nDelete it and adapt again.")
    return curve.sort_values("step", kind="stable")


def read_coefficients(path: str, tasks: Sequence[str]) -> pd.DataFrame:
    """Coefficients of an adapter: a row per task of the inputs, expert and layer; maybe none.

    Raises
    ------
    MergeloomError – a column is missing, or it is of other tasks.
    """
    found = pd.read_parquet(path)
    _check_columns(path, found, _COEFFICIENTS)
    for column in ("task", "expert"):
        if surplus := sorted(set(found[column]) - set(tasks)):
            raise MergeloomError(
                f"{path}: has the {column} {', '.join(surplus)}, which the benchmark lacks; it has "
                f"{', '.join(tasks)}.\nDelete it and evaluate again."
            )
    return found


def _check_columns(path: str, frame: pd.DataFrame, columns: Sequence[str]) -> None:
    missing = [column for column in columns if column not in frame]
    if missing:
        raise MergeloomError(
            f"{path}: has the columns {', '.join(frame.columns) or 'none'}; missing: "
            f"{', '.join(missing)}.\nDelete it and run the workflow again."
        )
