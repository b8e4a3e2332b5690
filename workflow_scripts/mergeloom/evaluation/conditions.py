"""What a study of training conditions measures of a model beside its result: accuracy on the
training images, and the log-trace of the Fisher information.

Written as JSON (config/schema/conditions_result.schema.json) for the fine-tuned models of a
collection, for a merged model at the alpha of its result, and for each fine-tuned model moved back
towards the base by that alpha: θ0 + α τ_t on task t, next to which the merged model shows what the
other task vectors do to it.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mergeloom.data.decoded import Images
from mergeloom.errors import MergeloomError
from mergeloom.evaluation.benchmark import Benchmark, check_precision
from mergeloom.evaluation.examples import Examples, ImageExamples
from mergeloom.evaluation.models import MergedModel, Turn, finetuned_models
from mergeloom.evaluation.results import (
    Scores,
    check_names,
    chosen_alpha,
    normalise_scores,
    read_result_of,
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


def _images(task: str, examples: Examples) -> Images:
    if not isinstance(examples, ImageExamples):
        raise MergeloomError(
            f"{task}: is a task of text; the log-trace is known of image towers under a frozen head"
        )
    return examples.images


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
        self._estimators = {
            task: LogTrace(
                benchmark.family,
                _images(task, examples),
                benchmark.encoder["image"],
                benchmark.device,
                benchmark.batch_size,
                log_trace,
                seed,
                first_batch,
            )
            for task, examples in benchmark.examples["train"].items()
        }
        self._of_base: Measured | None = None

    def __call__(self, turns: Iterable[Turn], splits: Sequence[str], name: str) -> Measured:
        """Accuracy, loss and n of models on splits of their tasks, and their log-traces.

        Parameters
        ----------
        name : of the models, for errors.

        Raises
        ------
        MergeloomError – logits or gradients that are not finite, or all zero; names the model.
        """
        found = Measured({split: {} for split in splits}, {})
        for tower, tasks in turns:
            for task in tasks:
                try:
                    for split in splits:
                        found.scores[split][task] = self.benchmark.count(tower, split, task)
                    estimate = self._estimators[task](tower, self.benchmark.heads[task])
                except MergeloomError as error:
                    raise MergeloomError(f"{name} on {task}: {error}") from None
                found.log_trace[task] = estimate._asdict()
                log.info(
                    "%s on %s: train accuracy %.3f, log-trace %.3f",
                    name,
                    task,
                    found.scores["train"][task]["accuracy"],
                    estimate.value,
                )
        return found

    def of_base(self, base: str | Path) -> Measured:
        """Of the base itself; measured once, since all collections of an encoder share it."""
        if self._of_base is None:
            model = MergedModel(self.benchmark.encoder, base, None, self.benchmark.device)
            self._of_base = self(model.at(0.0, self.benchmark.tasks), ["train"], "the base")
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
    MergeloomError – a model whose logits or gradients are not finite, or whose accuracy is 0.
    """
    benchmark = measures.benchmark
    found = measures(
        finetuned_models(benchmark.encoder, checkpoints, benchmark.tasks, benchmark.device),
        ["train"],
        f"{names['experts']} {FINETUNED}",
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
    that were measured in another precision; a model whose logits or gradients are not finite.
    """
    benchmark = measures.benchmark
    alpha = chosen_alpha(chosen, names)["value"]
    names_of_finetuned = {**names, "merger": FINETUNED}
    of_finetuned = read_measures(finetuned_measures, names_of_finetuned)
    check_precision(benchmark, of_finetuned["precision"])
    reference = {
        "train": {task: found["train"] for task, found in of_finetuned["tasks"].items()},
        "test": read_result_of(finetuned, "a result", names_of_finetuned)["tasks"],
    }

    def measured(delta: str | Path | Sequence[str | Path], splits: list[str], of: str) -> Measured:
        model = MergedModel(benchmark.encoder, base, delta, benchmark.device)
        name = f"{names['experts']} {names['merger']}{of} at alpha {alpha:g}"
        return measures(model.at(alpha, benchmark.tasks), splits, name)

    found = measured(merged, ["train"], "") if merged else measures.of_base(base)
    scaled = measured(task_vectors, ["train", "test"], ", scaled") if task_vectors else None
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
