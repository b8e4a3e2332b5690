"""What a study of training conditions measures of a model beside its result: accuracy on the
training images, and the log-trace of the Fisher information.

Written as JSON (config/schema/conditions_result.schema.json) for the fine-tuned models of a
collection, for a merged model at the alpha of its result, and for each fine-tuned model moved back
towards the base by that alpha: θ0 + α τ_t on task t, next to which the merged model shows what the
other task vectors do to it.
"""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mergeloom.errors import MergeloomError
from mergeloom.evaluation.benchmark import Benchmark, check_precision
from mergeloom.evaluation.models import MergedModel, Turn, finetuned_models
from mergeloom.evaluation.results import (
    Scores,
    check_names,
    chosen_alpha,
    normalise_scores,
    read_result,
)
from mergeloom.io.jsonfile import read_json
from mergeloom.statistics.log_trace import LogTrace

SCHEMA = "mergeloom/conditions/1"
FINETUNED = "finetuned"

log = logging.getLogger(__name__)


class Measured(NamedTuple):
    """scores : split -> task -> accuracy, loss, n. log_trace : task -> value, standard_error,
    examples."""

    scores: dict[str, Scores]
    log_trace: dict[str, dict[str, float]]

    def by_task(self, reference: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        """Task -> each split's scores, normalised by those of `reference`, and `log_trace`."""
        scores = {
            split: normalise_scores(found, reference[split]) for split, found in self.scores.items()
        }
        return {
            task: {**{split: found[task] for split, found in scores.items()}, "log_trace": trace}
            for task, trace in self.log_trace.items()
        }


class Measures:
    """Measure models on the tasks of a benchmark, all on the same images and draws.

    Parameters
    ----------
    benchmark : has the split `train`, and `test` where scaled models are measured.
    log_trace : settings (`mergeloom.statistics.log_trace`).
    seed : of the examples and labels that the log-trace draws.
    first_batch : the recipe's batch size, which the mode `course` takes as many examples of.
    """

    def __init__(
        self, benchmark: Benchmark, *, log_trace: Mapping[str, Any], seed: int, first_batch: int
    ) -> None:
        self.benchmark, self.log_trace = benchmark, dict(log_trace)
        self._seed, self._first_batch = seed, first_batch
        self._of_base: Measured | None = None

    def __call__(self, turns: Iterable[Turn], splits: Sequence[str]) -> Measured:
        """Accuracy, loss and n of models on splits of their tasks, and their log-traces."""
        found = Measured({split: {} for split in splits}, {})
        for tower, tasks in turns:
            for task in tasks:
                for split in splits:
                    found.scores[split][task] = self.benchmark.count(tower, split, task)
                # Only for as long as it is used: it holds its examples, and T tasks have many.
                estimate = LogTrace(
                    self.benchmark.family,
                    self.benchmark.images["train"][task],
                    self.benchmark.encoder["image"],
                    self.benchmark.device,
                    self.benchmark.batch_size,
                    self.log_trace,
                    self._seed,
                    self._first_batch,
                )(tower, self.benchmark.heads[task])
                found.log_trace[task] = estimate._asdict()
                log.info(
                    "%s: train accuracy %.3f, log-trace %.3f",
                    task,
                    found.scores["train"][task]["accuracy"],
                    estimate.value,
                )
        return found

    def of_base(self, base: str | Path) -> Measured:
        """Of the base itself; measured once, since all collections of an encoder share it."""
        if self._of_base is None:
            model = MergedModel(self.benchmark.encoder, base, None, self.benchmark.device)
            self._of_base = self(model.at(0.0, self.benchmark.tasks), ["train"])
        return self._of_base


def measure_finetuned(
    measures: Measures,
    *,
    checkpoints: Sequence[str | Path],
    names: Mapping[str, str],
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """Measure each task's own fine-tuned model on it; normalised, its accuracy is 1 by definition.

    Parameters
    ----------
    checkpoints : in the order of the benchmark's tasks.
    names : encoder, experts, benchmark.

    Raises
    ------
    MergeloomError – a log-trace that is not finite; a model of accuracy 0.
    """
    benchmark = measures.benchmark
    found = measures(
        finetuned_models(benchmark.encoder, checkpoints, benchmark.tasks, benchmark.device),
        ["train"],
    )
    return _content(
        measures,
        names={**names, "merger": FINETUNED},
        alpha=None,
        tasks=found.by_task(found.scores),
        provenance=provenance,
    )


def measure_merged(
    measures: Measures,
    *,
    base: str | Path,
    merged: str | Path | None,
    task_vectors: Sequence[str | Path] | None,
    chosen: str | Path,
    finetuned: str | Path,
    finetuned_measures: str | Path,
    names: Mapping[str, str],
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """Measure θ0 + αΔ at the alpha of its result, and, if asked, every θ0 + α τ_t on task t.

    Parameters
    ----------
    merged : the merged task vector Δ, or one per task; None measures the base itself.
    task_vectors : the τ_t in the order of tasks, where Δ is their sum; else None.
    chosen : the merger's result, which chose alpha on validation data.
    finetuned : result of the fine-tuned models, whose test accuracies normalise.
    finetuned_measures : what `measure_finetuned` gave, whose train accuracies normalise.
    names : encoder, experts, benchmark, merger.

    Raises
    ------
    MergeloomError – a file of another encoder, collection, benchmark or merger; fine-tuned models
    that were measured in another precision; a log-trace that is not finite.
    """
    benchmark = measures.benchmark
    alpha = chosen_alpha(chosen, names)["value"]
    of_finetuned = read_measures(finetuned_measures, {**names, "merger": FINETUNED})
    check_precision(benchmark, of_finetuned["precision"])
    reference = {
        "train": {task: found["train"] for task, found in of_finetuned["tasks"].items()},
        "test": read_result(finetuned)["tasks"],
    }

    def model(delta: str | Path | Sequence[str | Path]) -> Iterable[Turn]:
        moved = MergedModel(benchmark.encoder, base, delta, benchmark.device)
        return moved.at(alpha, benchmark.tasks)

    found = measures(model(merged), ["train"]) if merged else measures.of_base(base)
    scaled = measures(model(task_vectors), ["train", "test"]) if task_vectors else None
    return _content(
        measures,
        names=names,
        alpha=alpha,
        tasks=found.by_task(reference),
        scaled=scaled.by_task(reference) if scaled else None,
        provenance=provenance,
    )


def _content(
    measures: Measures,
    *,
    names: Mapping[str, str],
    alpha: float | None,
    tasks: Mapping[str, Any],
    scaled: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """As it is written to `results/{encoder}/{experts}/{benchmark}/conditions/{merger}.json`."""
    study = {key: names[key] for key in ("encoder", "experts", "benchmark", "merger")}
    for task, found in [*tasks.items(), *(scaled or {}).items()]:
        if not all(map(math.isfinite, found["log_trace"].values())):
            raise MergeloomError(
                f"{'/'.join(study.values())}: the log-trace on {task} is {found['log_trace']}: the "
                "model's gradients are not finite, or all of them are zero. Look at its learning "
                "curve, and at the loss beside it."
            )
    return {
        "schema": SCHEMA,
        **study,
        "alpha": alpha,
        "precision": measures.benchmark.precision,
        "log_trace": measures.log_trace,
        "tasks": dict(tasks),
        **({"scaled": dict(scaled)} if scaled else {}),
        "provenance": dict(provenance),
    }


def read_measures(path: str | Path, names: Mapping[str, str]) -> dict[str, Any]:
    """What was measured of a model.

    Parameters
    ----------
    names : encoder, experts, benchmark and merger that it must be of.

    Raises
    ------
    MergeloomError – the file is none of measures, is of another study, or lacks a log-trace.
    """
    content: dict[str, Any] = read_json(path, SCHEMA)
    study = {key: content[key] for key in ("encoder", "experts", "benchmark", "merger")}
    check_names(path, "a file of measures", study, names)
    for part in ("tasks", "scaled"):
        for task, found in content.get(part, {}).items():
            if "log_trace" not in found:
                raise MergeloomError(
                    f"{path}: {part}: {task} has no log_trace: delete the file, and `snakemake "
                    f"{path}` makes it again"
                )
    return content
