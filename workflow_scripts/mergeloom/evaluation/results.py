"""What one model reached on a benchmark, as JSON (config/schema/result.schema.json)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mergeloom.errors import MergeloomError
from mergeloom.io.jsonfile import read_json

SCHEMA = "mergeloom/result/1"
Scores = dict[str, dict[str, float]]  # task -> accuracy, loss, n, normalized_accuracy


def normalise_scores(scores: Scores, reference: Mapping[str, Mapping[str, float]]) -> Scores:
    """Add `normalized_accuracy`: accuracy over that of the task's own fine-tuned model.

    Raises MergeloomError when a fine-tuned model has no accuracy above 0 to divide by.
    """
    normalised = {}
    for task, score in scores.items():
        best = reference[task]["accuracy"]
        if best <= 0:
            raise MergeloomError(
                f"{task}: its fine-tuned model has accuracy {best:.3g}, which nothing can be "
                "normalised by; look at its learning curve, or leave the task out of the benchmark"
            )
        normalised[task] = {**score, "normalized_accuracy": score["accuracy"] / best}
    return normalised


def average(scores: Scores) -> dict[str, float]:
    """Mean over tasks of accuracy, loss, normalised accuracy, and all else that every task has."""
    first, *others = scores.values()
    keys = [key for key in first if key != "n" and all(key in score for score in others)]
    return {key: sum(s[key] for s in scores.values()) / len(scores) for key in keys}


def result(
    *,
    encoder: str,
    experts: str,
    benchmark: str,
    merger: Mapping[str, Any],
    alpha: Mapping[str, Any] | None,
    test: Scores,
    validation: Scores | None,
    provenance: Mapping[str, Any],
    precision: Mapping[str, Any] | None = None,
    evaluated_on: Mapping[str, Any] | None = None,
    scored_by: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """A result as it is written to `results/{encoder}/{experts}/{benchmark}/{merger}.json`.

    Parameters
    ----------
    validation : None where `evaluated_on` names other images, on which nothing is chosen.
    precision : where it is not float32: which, and what it does to accuracy.
    evaluated_on : where it is not the benchmark's own images: `{"benchmark", "unseen"}`, or
        `{"corruption", "severity"}`.
    scored_by : tasks whose `accuracy` is another score, and which one it is.
    """
    fields = {"precision": precision, "evaluated_on": evaluated_on, "scored_by": scored_by or None}
    if validation is not None:
        fields["validation"] = {"tasks": validation, "average": average(validation)}
    return {
        "schema": SCHEMA,
        "encoder": encoder,
        "experts": experts,
        "benchmark": benchmark,
        "merger": dict(merger),
        "alpha": None if alpha is None else dict(alpha),
        "tasks": test,
        "average": average(test),
        "provenance": dict(provenance),
        **{key: dict(content) for key, content in fields.items() if content is not None},
    }


def chosen_alpha(path: str | Path, names: Mapping[str, str]) -> dict[str, Any]:
    """The alpha of a merger's result, for an evaluation of the same model on other images.

    Parameters
    ----------
    path : a result JSON.
    names : encoder, experts, benchmark and merger that it must be of.

    Raises
    ------
    MergeloomError – the result is of another encoder, experts, benchmark or merger.
    """
    found = read_result_of(path, "an alpha file", names)
    study = [found[key] for key in ("encoder", "experts", "benchmark")]
    return {
        "value": found["alpha"]["value"],
        "how": "result",
        "source": f"results/{'/'.join(study)}/{names['merger']}.json",
        "chosen": found["alpha"]["how"],
    }


def check_names(
    path: str | Path, what: str, found: Mapping[str, str], names: Mapping[str, str]
) -> None:
    """Raise MergeloomError if a file is of another study than the one that is evaluated.

    Parameters
    ----------
    what : the file is, with its article.
    found : what the file says that it is of: encoder, experts, benchmark, merger.
    names : what it must be of; there may be more.
    """
    wrong = {key: value for key, value in found.items() if value != names[key]}
    if wrong:
        seen = ", ".join(f"{key} {v!r} (expected {names[key]!r})" for key, v in wrong.items())
        raise MergeloomError(
            f"{path}: is {what} of another {' and '.join(wrong)}: it says {seen}. It was copied or "
            f"renamed: delete it, and `snakemake {path}` makes it again."
        )


def no_model_of_unseen_tasks(merger: str) -> str:
    """Why a merger that gives one model per task cannot be evaluated on other tasks."""
    return (
        f"merger {merger!r} gives one model per task, and none belongs to a task that was not "
        "merged; evaluate a merger that gives one model for all"
    )


def read_result(path: str | Path) -> dict[str, Any]:
    """A result JSON; MergeloomError when it is none."""
    content: dict[str, Any] = read_json(path, SCHEMA)
    return content


def read_result_of(path: str | Path, what: str, names: Mapping[str, str]) -> dict[str, Any]:
    """A result JSON, checked to be of this encoder, experts, benchmark and merger.

    Parameters and errors are those of `check_names`.
    """
    content = read_result(path)
    study = {key: content[key] for key in ("encoder", "experts", "benchmark")}
    check_names(path, what, {**study, "merger": content["merger"]["name"]}, names)
    return content
