"""What was measured in a study of training conditions, read and checked to belong together."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from mergeloom.errors import MergeloomError
from mergeloom.evaluation.results import read_result
from mergeloom.io.jsonfile import read_json
from mergeloom.report.results import Result, in_order
from mergeloom.training.selection import selected_epoch

SCHEMA = "mergeloom/conditions/1"
FINETUNED = "finetuned"


class Measured(NamedTuple):
    """One collection of experts: the end points of one condition, selection and seed.

    results : `finetuned` and every merger → its result (validation and test).
    measures : the same → accuracy on training images, log-trace, scaled single tasks.
    selected : task → the row of its training history that the selection takes.
    """

    condition: str
    selection: str
    seed: int
    results: dict[str, Result]
    measures: dict[str, Mapping[str, Any]]
    selected: dict[str, pd.Series]


def words_of_log_trace(settings: Mapping[str, Any]) -> str:
    """The mode of a log-trace, and of how many images or draws it is, by its settings."""
    count = settings["examples"]
    if settings["mode"] == "course":
        return f"course, {count} draws"
    return f"Fisher, {count} {settings['sampling']} examples"


def read_histories(
    runs: Sequence[str], tasks: Sequence[str], paths: Sequence[str]
) -> dict[str, dict[str, pd.DataFrame]]:
    """Training histories of every run and task: run → task → a row per epoch.

    `paths` are those of each run in turn, task by task.
    """
    each = iter(paths)
    return {run: {task: pd.read_parquet(next(each)) for task in tasks} for run in runs}


def read_study(
    collections: Sequence[Mapping[str, Any]],
    tasks: Sequence[str],
    mergers: Sequence[str],
    results: Sequence[str],
    measures: Sequence[str],
    histories: Mapping[str, Mapping[str, pd.DataFrame]],
) -> list[Measured]:
    """Read a study, a collection after the other.

    Parameters
    ----------
    collections : their `experts`, `run`, `condition`, `selection` and `seed`.
    results, measures : paths of the result JSONs and of those below conditions/: of each collection
        in turn, those of the fine-tuned models and of every merger.
    histories : run → task → the rows of training.parquet.

    Raises
    ------
    MergeloomError
        A file is of another collection, benchmark, merger or tasks than it should be; two were
        measured on other numbers of images or by other settings of the log-trace; an alpha is not
        the one that was chosen; a history lacks what a selection looks at.
    """
    models = (FINETUNED, *mergers)
    one, other = _rows(results, len(models)), _rows(measures, len(models))
    study = []
    for given, of_results, of_measures in zip(collections, one, other, strict=True):
        named: dict[str, Result] = dict(zip(models, map(read_result, of_results), strict=True))
        in_order(named.values(), tasks)
        found: dict[str, Mapping[str, Any]] = {
            model: read_json(path, SCHEMA) for model, path in zip(models, of_measures, strict=True)
        }
        for model, path in zip(models, of_measures, strict=True):
            _check(path, found[model], named[model], given["experts"], model)
        rows = {task: _selected(histories, given, task) for task in tasks}
        study.append(
            Measured(given["condition"], given["selection"], given["seed"], named, found, rows)
        )
        _check_alike(dict(zip(models, of_measures, strict=True)), study[-1], study[0])
    return study


def _rows(paths: Sequence[str], length: int) -> Iterator[Sequence[str]]:
    return (paths[start : start + length] for start in range(0, len(paths), length))


def _selected(
    histories: Mapping[str, Mapping[str, pd.DataFrame]], given: Mapping[str, Any], task: str
) -> pd.Series:
    history = histories[given["run"]][task]
    name = f"{given['run']}/{task}/training.parquet"
    return selected_row(history, given["selection"], name)


def selected_row(history: pd.DataFrame, selection: str, run: str) -> pd.Series:
    """The row of a training history that a selection takes; `run` names it in errors."""
    rows: Any = history.to_dict("records")
    epoch = selected_epoch(rows, selection, run)
    return history[history["epoch"] == epoch].iloc[0]


def _check(
    path: str, measured: Mapping[str, Any], result: Result, experts: str, model: str
) -> None:
    """Check that a file below conditions/ belongs to its result, and both to the collection."""
    expected = {
        "experts": (experts, result["experts"], measured["experts"]),
        "merger": (model, result["merger"]["name"], measured["merger"]),
        "encoder": (result["encoder"], measured["encoder"]),
        "benchmark": (result["benchmark"], measured["benchmark"]),
        "tasks": (sorted(result["tasks"]), sorted(measured["tasks"])),
        "alpha": ((result["alpha"] or {"value": None})["value"], measured["alpha"]),
    }
    for key, (first, *others) in expected.items():
        for value in others:
            if value != first:
                raise MergeloomError(
                    f"{path} or its result: {key} is {value}, expected {first}.\n"
                    "The two are not of one study: delete both and run the workflow again."
                )


def _check_alike(paths: Mapping[str, str], measured: Measured, first: Measured) -> None:
    """Check that a collection was measured as the first was: their numbers are compared."""
    for model, result in measured.results.items():
        path, expected = paths[model], first.results[model]
        for key in ("encoder", "benchmark"):
            if result[key] != expected[key]:
                raise MergeloomError(
                    f"{path}: {key} is {result[key]}, but the study is of {expected[key]}.\n"
                    "Delete it and its result, and run the workflow again."
                )
        for task, score in result["tasks"].items():
            if score["n"] != expected["tasks"][task]["n"]:
                raise MergeloomError(
                    f"{path}: its result was measured on {score['n']} test images of {task}, "
                    f"others of the study on {expected['tasks'][task]['n']}.\n"
                    "Make all again from the same data."
                )
        settings = (measured.measures[model]["log_trace"], first.measures[model]["log_trace"])
        if settings[0] != settings[1]:
            raise MergeloomError(
                f"{path}: its log-trace was measured with {settings[0]}, others of the study with "
                f"{settings[1]}.\nThey do not compare: delete it and run the workflow again."
            )
