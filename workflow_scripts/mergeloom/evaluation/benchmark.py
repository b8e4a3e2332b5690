"""Evaluate models on a benchmark in one sitting: inputs, heads and tower loaded once."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from mergeloom.errors import MergeloomError
from mergeloom.evaluation.accuracy import Around, Counter, evaluate
from mergeloom.evaluation.examples import open_examples
from mergeloom.evaluation.metrics import METRICS
from mergeloom.evaluation.models import MergedModel, Turn, finetuned_models
from mergeloom.evaluation.precision import resolve_precision
from mergeloom.evaluation.results import (
    Scores,
    average,
    no_model_of_unseen_tasks,
    normalise_scores,
    result,
)
from mergeloom.io.tensors import TensorFile
from mergeloom.models.family import get_family

log = logging.getLogger(__name__)


def _nothing(rows: slice) -> nullcontext[None]:
    return nullcontext()


class Benchmark:
    """The tasks of a benchmark, ready to evaluate towers of one encoder on them.

    Parameters
    ----------
    encoder : preset with `family`, `architecture`, and how its inputs are made (`image`).
    tasks : names; `heads` and the examples of the splits are files in the same order.
    train, val, test : None where nothing is measured or chosen on these examples.
    precision : float32, bfloat16, float16 or auto, of the towers.
    metrics : names of `mergeloom.evaluation.metrics.METRICS`, in every task's scores.

    Attributes
    ----------
    heads : task to its head, as the family has it, on the device.
    examples : split and task to `mergeloom.evaluation.examples.Examples`.
    """

    def __init__(
        self,
        *,
        encoder: Mapping[str, Any],
        tasks: Sequence[str],
        heads: Sequence[str | Path],
        device: str,
        batch_size: int,
        train: Sequence[str | Path] | None = None,
        val: Sequence[str | Path] | None = None,
        test: Sequence[str | Path] | None = None,
        precision: str = "float32",
        metrics: Sequence[str] = (),
    ) -> None:
        self.encoder, self.tasks, self.device = encoder, list(tasks), device
        self.precision = resolve_precision(precision, device)
        self.family, self.batch_size = get_family(encoder["family"]), batch_size
        self._metrics = list(metrics)
        self.heads = {}
        for task, path in zip(tasks, heads, strict=True):
            with TensorFile(path) as file:
                self.heads[task] = self.family.read_head(file, device)
        self.examples = {
            split: {t: open_examples(p, encoder, device) for t, p in zip(tasks, paths, strict=True)}
            for split, paths in (("train", train), ("val", val), ("test", test))
            if paths is not None
        }

    @property
    def splits(self) -> list[str]:
        """Those of `train`, `val` and `test` that there are."""
        return list(self.examples)

    @property
    def scored_by(self) -> dict[str, str]:
        """Tasks whose accuracy is another score, and which one it is."""
        metrics = {task: getattr(head, "metric", None) for task, head in self.heads.items()}
        return {task: metric for task, metric in metrics.items() if metric == "spearman"}

    def classes(self, task: str) -> int:
        """Number of classes of a task."""
        return len(self.heads[task])

    def count(
        self,
        tower: Any,
        split: str,
        task: str,
        counters: Sequence[Counter] = (),
        precision: str | None = None,
        around: Around = _nothing,
    ) -> dict[str, float]:
        """Accuracy, loss and n of a tower on a split of one task; `counters` see its logits.

        around : see `evaluate`.
        """
        return evaluate(
            self.family,
            tower,
            self.heads[task],
            self.examples[split][task],
            device=self.device,
            batch_size=self.batch_size,
            precision=precision or self.precision,
            counters=counters,
            around=around,
        )

    def scores(
        self,
        turns: Iterable[Turn],
        splits: Sequence[str],
        around: Mapping[str, Around] | None = None,
    ) -> dict[str, Scores]:
        """Accuracy, loss, n and the metrics of models on splits of their tasks.

        around : by task, see `evaluate`.
        """
        found: dict[str, Scores] = {split: {} for split in splits}
        for tower, tasks in turns:
            for split, collected in found.items():
                for task in tasks:
                    counters = {
                        name: METRICS[name](self.classes(task), self.device)
                        for name in self._metrics
                    }
                    enter = (around or {}).get(task, _nothing)
                    score = self.count(tower, split, task, [*counters.values()], around=enter)
                    collected[task] = score | {n: c.score() for n, c in counters.items()}
        return found


def evaluate_finetuned(
    benchmark: Benchmark,
    *,
    checkpoints: Sequence[str | Path],
    names: Mapping[str, str],
    provenance: Mapping[str, Any],
    evaluated_on: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Evaluate each task's own fine-tuned model on it; normalised, it is 1 by definition.

    Where the precision is not float32, the test images are evaluated in float32, too, and the
    result says how far apart the accuracies are. The other results of the study repeat it.
    """
    scores: dict[str, Scores] = {split: {} for split in benchmark.splits}
    apart: dict[str, float] = {}
    for tower, [task] in finetuned_models(
        benchmark.encoder, checkpoints, benchmark.tasks, benchmark.device
    ):
        found = benchmark.scores([(tower, [task])], benchmark.splits)
        for split, collected in scores.items():
            collected |= found[split]
        accuracy = found["test"][task]["accuracy"]
        if benchmark.precision != "float32":
            exact = benchmark.count(tower, "test", task, precision="float32")
            apart[task] = accuracy - exact["accuracy"]
        log.info("%s: test accuracy %.3f", task, accuracy)
    precision = None
    if apart:
        mean = sum(apart.values()) / len(apart)
        log.info("%s changes the average accuracy by %+.5f", benchmark.precision, mean)
        precision = {"dtype": benchmark.precision, "difference": {"tasks": apart, "average": mean}}
    normalised = {split: normalise_scores(found, found) for split, found in scores.items()}
    return result(
        **_study(names),
        merger={
            "name": "finetuned",
            "method": None,
            "parameters": {},
            "modifiers": [],
            "per_task": True,
        },
        alpha=None,
        test=normalised["test"],
        validation=normalised.get("val"),
        provenance=provenance,
        precision=precision,
        evaluated_on=evaluated_on,
        scored_by=benchmark.scored_by,
    )


def evaluate_merged(
    benchmark: Benchmark,
    *,
    base: str | Path,
    merged: str | Path | None,
    merger: Mapping[str, Any],
    alpha: Mapping[str, Any],
    finetuned: Mapping[str, Any],
    names: Mapping[str, str],
    provenance: Mapping[str, Any],
    evaluated_on: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Evaluate θ0 + αΔ on validation and test data; α is chosen on validation data alone.

    Parameters
    ----------
    merged : the merged task vector Δ, or one per task; None evaluates the base itself.
    merger : preset with `method` and, if any, `parameters` and `modifiers`.
    alpha : `{"how": "search", "grid", "patience"}`, or `{"how": "fixed" | "table" | "result",
        "value", ...}`.
    finetuned : result of the fine-tuned models on the same images, which accuracies are normalised
        by.
    evaluated_on : what the images are, if not the benchmark's own (`evaluation.results.result`).

    Raises
    ------
    MergeloomError – one model per task for tasks that have none; `finetuned` was evaluated in
    another precision.
    """
    reference = {"test": finetuned["tasks"]}
    if "val" in benchmark.splits:
        reference["val"] = finetuned["validation"]["tasks"]
    check_precision(benchmark, precision_of(finetuned))
    model = MergedModel(benchmark.encoder, base, merged, benchmark.device)
    name = names.get("merger", merger["method"])
    if model.per_task and "benchmark" in (evaluated_on or {}):
        raise MergeloomError(no_model_of_unseen_tasks(name))

    def scores(value: float, splits: Sequence[str]) -> dict[str, Scores]:
        found = benchmark.scores(model.at(value, benchmark.tasks), splits)
        return {split: normalise_scores(s, reference[split]) for split, s in found.items()}

    if alpha["how"] == "search":
        alpha = search_alpha(alpha, lambda value: scores(value, ["val"])["val"])
    found = scores(alpha["value"], benchmark.splits)
    if merged is None:
        _warn_of_strangers(found["test"])
    log.info(
        "alpha %g (%s): average accuracy %.4f",
        alpha["value"],
        alpha["how"],
        average(found["test"])["accuracy"],
    )
    return result(
        **_study(names),
        merger={
            "name": name,
            "method": merger["method"],
            "parameters": merger.get("parameters", {}),
            "modifiers": merger.get("modifiers", []),
            "per_task": model.per_task,
        },
        alpha=alpha,
        test=found["test"],
        validation=found.get("val"),
        provenance=provenance,
        precision=finetuned.get("precision"),
        evaluated_on=evaluated_on,
        scored_by=benchmark.scored_by,
    )


def _study(names: Mapping[str, str]) -> dict[str, str]:
    return {key: names[key] for key in ("encoder", "experts", "benchmark")}


def _warn_of_strangers(scores: Scores) -> None:
    """Name experts that are worse on their own task than the base that they were tuned from.

    Everything is normalised by them, and alpha is chosen by that: one such task can decide it.
    """
    for task, score in scores.items():
        if score["normalized_accuracy"] > 1:
            best = score["accuracy"] / score["normalized_accuracy"]
            log.warning(
                "%s: the fine-tuned model (%.3f) is worse than the base (%.3f) on its own task. Is "
                "it of this task, with these classes, in this order, of images like these?",
                task,
                best,
                score["accuracy"],
            )


def precision_of(finetuned: Mapping[str, Any]) -> str:
    """The precision that a result of fine-tuned models was evaluated in."""
    found: str = finetuned.get("precision", {"dtype": "float32"})["dtype"]
    return found


def check_precision(benchmark: Benchmark, of_finetuned: str) -> None:
    """Raise MergeloomError if the fine-tuned models were evaluated in another precision."""
    if of_finetuned != benchmark.precision:
        raise MergeloomError(
            f"the fine-tuned models were evaluated in {of_finetuned}, this would be in "
            f"{benchmark.precision}: `auto` depends on the device. Set evaluation.precision to one "
            "of the two."
        )


def search_alpha(search: Mapping[str, Any], validate: Callable[[float], Scores]) -> dict[str, Any]:
    """Choose the alpha of the best average normalised accuracy on validation data.

    Of equally good values the smallest is taken: the least that is changed.

    The values are evaluated one after the other: with the images decoded, what models could share
    is reading and normalising them, under a hundredth of the forward pass, while evaluating them
    side by side takes the memory of them all and forgoes patience.

    Parameters
    ----------
    search : `grid`, ascending, and perhaps `patience`: the search ends when so many values on end
        were no better than the best one before them.
    validate : gives the scores of the merged model at an alpha.
    """
    curve: list[dict[str, Any]] = []
    best, patience = 0, search.get("patience")
    for value in search["grid"]:
        curve.append(_point(value, validate(value)))
        log.info("alpha %g: %.4f", value, curve[-1]["normalized_accuracy"])
        if curve[-1]["normalized_accuracy"] > curve[best]["normalized_accuracy"]:
            best = len(curve) - 1
        if patience and len(curve) - 1 - best >= patience:
            break
    return {
        "value": curve[best]["alpha"],
        "how": "search",
        "split": "val",
        "criterion": "average normalized accuracy",
        "patience": patience,
        "curve": curve,
    }


def _point(alpha: float, scores: Scores) -> dict[str, Any]:
    means = average(scores)
    kept = ("accuracy", "normalized_accuracy")
    return {
        "alpha": alpha,
        **{key: means[key] for key in kept},
        "tasks": {task: {key: score[key] for key in kept} for task, score in scores.items()},
    }
