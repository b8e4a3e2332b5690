"""Evaluate an adapted model: input by input or batch by batch, before and after adaptation."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergeloom.adaptive.adapter import Adapter, observed
from mergeloom.adaptive.coefficients import Chosen, table
from mergeloom.adaptive.mixed_batches import score_by_features, score_together
from mergeloom.adaptive.outcome import MARGIN
from mergeloom.adaptive.scores import Features, score
from mergeloom.errors import MergeloomError
from mergeloom.evaluation.benchmark import Benchmark, check_precision, precision_of
from mergeloom.evaluation.results import Scores, average, normalise_scores
from mergeloom.io.jsonfile import read_json

SCHEMA = "mergeloom/adaptive/1"


@dataclass(frozen=True)
class Evaluation:
    """What was found: the result, the table of coefficients, and times in seconds."""

    result: dict[str, Any]
    coefficients: Mapping[str, list[Any]]
    times: dict[str, float]


def take_low_rank(
    adapter: Adapter,
    evaluation: Mapping[str, Any],
    name: str,
    svd: Sequence[str | Path] | None = None,
) -> dict[str, Any]:
    """Put low-rank forms in place of the matrices' task vectors if the preset's `rank` asks for it.

    svd : SVD caches of the task vectors; None where there are none, as of another merger's.

    Returns
    -------
    `form`, and of the low-rank one `rank` and its relative `error`.

    Raises
    ------
    MergeloomError – the adapter does not leave it to the mixture to combine whole task vectors.
    """
    rank = evaluation.get("rank")
    if rank is None:
        return {"form": "exact"}
    if not adapter.entry.low_rank:
        raise MergeloomError(
            f"adapter {name!r} has no low-rank form: leave evaluation.rank out of its preset"
        )
    return {"form": "low_rank", "rank": rank, "error": adapter.mixture.low_rank(rank, svd)}


def evaluate_adapted(
    benchmark: Benchmark,
    adapter: Adapter,
    initial: Mapping[str, Any] | None,
    *,
    about: Mapping[str, Any],
    experts: Sequence[str],
    adaptation: Mapping[str, Any] | None,
    evaluation: Mapping[str, Any],
    features: Mapping[str, Features | None],
    finetuned: Mapping[str, Any],
    names: Mapping[str, str],
    seed: int,
    provenance: Mapping[str, Any],
    transferred_from: Mapping[str, Any] | None = None,
    evaluated_on: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Evaluate an adapter on test and, where there is any, validation data.

    Parameters
    ----------
    adapter : in the state that is evaluated.
    initial : its state before adaptation; None where it has none.
    about : name, method, parameters, extractor and vectors, as they stand in the result.
    experts : tasks whose task vectors are mixed, in their order.
    adaptation : how it was adapted, as its file says.
    evaluation : `granularity`, and `form` with `rank` and `error`.
    features : φ(x) by split; None for an adapter that takes none.
    finetuned : result of the fine-tuned models on the same examples.
    names : encoder, experts, benchmark.
    transferred_from : where the state is another encoder's.
    evaluated_on : what the inputs are, if not the benchmark's own.
    """
    check_precision(benchmark, precision_of(finetuned))
    granularity, reference = evaluation["granularity"], {"test": finetuned["tasks"]}
    if "val" in benchmark.splits:
        reference["val"] = finetuned["validation"]["tasks"]

    def normalised(split: str, scores: Scores) -> dict[str, Any]:
        found = normalise_scores(scores, reference[split])
        return {"tasks": found, "average": average(found)}

    begun = time.perf_counter()
    scores = score(benchmark, adapter, "test", features["test"], granularity)
    seconds = time.perf_counter() - begun
    test = normalised("test", scores)
    content = {
        "schema": SCHEMA,
        **{name: names[name] for name in ("encoder", "experts", "benchmark")},
        "adapter": dict(about),
        "adaptation": None if adaptation is None else dict(adaptation),
        "evaluation": {**evaluation, "batch_size": benchmark.batch_size},
        **test,
        "mixed_batches": _mixed(benchmark, adapter, scores, features["test"], seed),
        "parameters": {"trainable": adapter.trainable, "stored": adapter.stored},
        "provenance": dict(provenance),
    }
    if content["mixed_batches"]:
        mixed = normalised("test", content["mixed_batches"])
        content["mixed_batches"] = {"batch_size": benchmark.batch_size, **mixed}
    chosen = _within(benchmark, adapter)
    columns = table(adapter, benchmark.tasks, experts, features["test"], chosen)
    if "val" in benchmark.splits:
        found = score(benchmark, adapter, "val", features["val"], granularity)
        content["validation"] = normalised("val", found)
    content["before"] = None
    if initial is not None:
        adapter.load(initial)
        before = score(benchmark, adapter, "test", features["test"], granularity)
        content["before"] = normalised("test", before)
        _flag_losses(content, evaluated_on or {})
    given = {"transferred_from": transferred_from, "evaluated_on": evaluated_on}
    if scored_by := getattr(benchmark, "scored_by", None):
        given["scored_by"] = scored_by
    content |= {key: dict(value) for key, value in given.items() if value is not None}
    examples = sum(int(s["n"]) for s in scores.values())
    times = {"evaluation_seconds": seconds, "examples_per_second": examples / seconds}
    return Evaluation(content, columns, times)


def _within(benchmark: Benchmark, adapter: Adapter) -> Chosen:
    """What is chosen for each test input within the forward pass, if it is chosen there. In a pass
    of its own: one that is watched takes longer."""
    chosen = Chosen()
    if adapter.within:
        with observed(adapter, chosen):
            score(benchmark, adapter, "test", None, "sample", chosen.enter)
    return chosen


def _flag_losses(content: dict[str, Any], evaluated_on: Mapping[str, Any]) -> None:
    """Of corrupted inputs, call it a collapse, too, where these are answered worse than before.

    Validation images are clean, and need not show it.
    """
    adaptation = content["adaptation"]
    if "corruption" not in evaluated_on or "corruption" not in (adaptation or {}):
        return
    flags, before = adaptation["collapsed"], content["before"]

    def lost(now: Mapping[str, float], then: Mapping[str, float]) -> bool:
        return now["accuracy"] < then["accuracy"] - MARGIN

    adaptation["collapsed"] = {
        "average": flags["average"] or lost(content["average"], before["average"]),
        "tasks": [
            task
            for task, score in content["tasks"].items()
            if task in flags["tasks"] or lost(score, before["tasks"][task])
        ],
    }


def _mixed(
    benchmark: Benchmark, adapter: Adapter, scores: Scores, features: Features | None, seed: int
) -> Scores | None:
    """Scores on mixed batches: those of the test where a choice does not depend on the batch; None
    where texts of several tasks would have to pass the tower as one."""
    if features is not None:
        return score_by_features(benchmark, adapter, "test", features, seed)
    if not adapter.together:
        return scores
    if benchmark.family.modality != "images":
        return None
    return score_together(benchmark, adapter, "test", seed)


def read_adaptive_result(path: str) -> dict[str, Any]:
    """A result of an adapted model; MergeloomError when it is none."""
    content: dict[str, Any] = read_json(path, SCHEMA)
    return content
