"""Results of one benchmark, checked to belong together."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mergeloom.errors import MergeloomError

Result = Mapping[str, Any]

_STUDY = ("encoder", "experts", "benchmark")


def in_order(results: Iterable[Result], tasks: Sequence[str] | None = None) -> list[Result]:
    """Order the results of one benchmark: zero-shot, the mergers as given, fine-tuned.

    Parameters
    ----------
    results : what results/{encoder}/{experts}/{benchmark}/{merger}.json hold.
    tasks : tasks that every result must have, no more and no fewer; default: those of the first.

    Raises
    ------
    MergeloomError
        There is no result, one lacks a field, is of another encoder, experts or benchmark, of
        other tasks, of other test images, or is there twice.
    """
    results = list(results)
    check_alike(results, tasks)
    last = {"zeroshot": -1, "finetuned": 1}
    return sorted(results, key=lambda result: last.get(result["merger"]["name"], 0))


def check_alike(results: Sequence[Result], tasks: Sequence[str] | None = None) -> None:
    """Check that results, of mergers or of adapters, can stand in one table, as `in_order` does."""
    if not results:
        raise MergeloomError("No result was given. Give at least one result JSON of a benchmark.")
    seen: set[str] = set()
    for result in results:
        _check_fields(result)
        _check_study(result, results[0])
        _check_tasks(result, results[0], tasks)
        if name(result) in seen:
            raise MergeloomError(f"{name(result)} was given twice. Give every result once.")
        seen.add(name(result))


def name(result: Result) -> str:
    """Name a result by its path below the results root."""
    study = "/".join(result[key] for key in _STUDY)
    if "merger" in result:
        return f"{study}/{result['merger']['name']}.json"
    source = result.get("transferred_from")
    folder = f"from/{source['encoder']}/" if source else ""
    return f"adaptive/{study}/{folder}{result['adapter']['name']}.json"


def _check_fields(result: Result) -> None:
    model = ("adapter",) if "adapter" in result else ("merger", "alpha")
    for parent, keys in (
        ((), (*_STUDY, *model, "tasks", "average")),
        (model[:1], ("name",)),
        (("average",), ("accuracy", "normalized_accuracy")),
        *(
            (("tasks", task), ("accuracy", "normalized_accuracy"))
            for task in result.get("tasks", ())
        ),
    ):
        node: Any = result
        for key in parent:
            node = node[key]
        absent = [key for key in keys if key not in node]
        if absent:
            what = "/".join(str(result.get(key, "?")) for key in _STUDY)
            raise MergeloomError(
                f"{what}: a result has no {'.'.join((*parent, absent[0]))}; it has "
                f"{', '.join(node) or 'nothing'}.\n"
                "It is no result JSON of this version: delete it and run the workflow again."
            )


def _check_study(result: Result, first: Result) -> None:
    for key in _STUDY:
        if result[key] != first[key]:
            raise MergeloomError(
                f"{name(result)} is of {key} {result[key]}, but {name(first)} is of {first[key]}.\n"
                "A table holds one encoder, experts and benchmark: leave one of the two out."
            )


def _check_tasks(result: Result, first: Result, tasks: Sequence[str] | None) -> None:
    source = "the benchmark" if tasks is not None else name(first)
    expected = list(first["tasks"] if tasks is None else tasks)
    missing = [task for task in expected if task not in result["tasks"]]
    surplus = [task for task in result["tasks"] if task not in expected]
    if missing or surplus:
        raise MergeloomError(
            f"{name(result)} has the tasks {', '.join(result['tasks'])}, but {source} has "
            f"{', '.join(expected)} (missing: {', '.join(missing) or 'none'}; "
            f"too many: {', '.join(surplus) or 'none'}).\n"
            "The benchmark changed after this result was made: run the workflow to make it again."
        )
    for task in expected:
        count, of_first = (r["tasks"][task].get("n") for r in (result, first))
        if count != of_first:
            raise MergeloomError(
                f"{name(result)} was measured on {count} test examples of {task}, but "
                f"{name(first)} on {of_first}: their accuracies do not compare.\n"
                "Make both again from the same data."
            )
