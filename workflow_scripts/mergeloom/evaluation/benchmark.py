"""Evaluate models on a benchmark in one sitting: images, heads and tower loaded once."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mergeloom.data.decoded import open_images
from mergeloom.evaluation.accuracy import evaluate
from mergeloom.evaluation.results import Scores, average, normalise_scores, result
from mergeloom.io.tensors import TensorFile
from mergeloom.models.family import get_family
from mergeloom.models.weights import merged_weights, read_tower

log = logging.getLogger(__name__)


class Benchmark:
    """The tasks of a benchmark, ready to evaluate towers of one encoder on them.

    Parameters
    ----------
    encoder : preset with `family`, `architecture`, `image`.
    tasks : names; `heads`, `val` and `test` are files in the same order.
    """

    def __init__(
        self,
        *,
        encoder: Mapping[str, Any],
        tasks: Sequence[str],
        heads: Sequence[str | Path],
        val: Sequence[str | Path],
        test: Sequence[str | Path],
        device: str,
        batch_size: int,
    ) -> None:
        self.encoder, self.tasks, self.device = encoder, list(tasks), device
        self.family = get_family(encoder["family"])
        self._batch_size = batch_size
        self._heads = {}
        for task, path in zip(tasks, heads, strict=True):
            with TensorFile(path) as file:
                self._heads[task] = file.read("weight").to(device)
        self._images = {
            "val": {t: open_images(Path(path)) for t, path in zip(tasks, val, strict=True)},
            "test": {t: open_images(Path(path)) for t, path in zip(tasks, test, strict=True)},
        }

    def tower(self, weights: TensorFile) -> Any:
        """The tower with a file's weights, on the device, in evaluation mode."""
        tower = read_tower(self.family, self.encoder["architecture"], weights)
        return tower.to(self.device).eval().requires_grad_(False)

    def scores(self, tower: Any, split: str, tasks: Sequence[str] | None = None) -> Scores:
        """Accuracy, loss and n of a tower on a split of each task."""
        return {
            task: evaluate(
                self.family,
                tower,
                self._heads[task],
                self._images[split][task],
                self.encoder["image"],
                device=self.device,
                batch_size=self._batch_size,
            )
            for task in tasks or self.tasks
        }


def evaluate_finetuned(
    benchmark: Benchmark,
    *,
    checkpoints: Sequence[str | Path],
    names: Mapping[str, str],
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """Evaluate each task's own fine-tuned model on it; normalised, it is 1 by definition."""
    scores: dict[str, Scores] = {"val": {}, "test": {}}
    for task, path in zip(benchmark.tasks, checkpoints, strict=True):
        with TensorFile(path) as file:
            tower = benchmark.tower(file)
        for split, collected in scores.items():
            collected |= benchmark.scores(tower, split, [task])
        log.info("%s: test accuracy %.3f", task, scores["test"][task]["accuracy"])
    return result(
        **names,
        merger={"name": "finetuned", "method": None, "parameters": {}},
        alpha=None,
        test=normalise_scores(scores["test"], scores["test"]),
        validation=normalise_scores(scores["val"], scores["val"]),
        provenance=provenance,
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
) -> dict[str, Any]:
    """Evaluate θ0 + αΔ on validation and test data; α is chosen on validation data alone.

    Parameters
    ----------
    merged : the merged task vector Δ; None evaluates the base itself.
    merger : preset with `method` and, if any, `parameters`.
    alpha : `{"how": "search", "grid"}`, or `{"how": "fixed" | "table", "value", ...}`.
    finetuned : result of the fine-tuned models, which accuracies are normalised by.
    """
    reference = {
        "val": finetuned["validation"]["tasks"],
        "test": finetuned["tasks"],
    }

    def normalised(split: str) -> Scores:
        return normalise_scores(benchmark.scores(tower, split), reference[split])

    with TensorFile(base) as base_file:
        tower = benchmark.tower(base_file)

        def move_to(value: float) -> None:
            if merged is None:
                return
            weights = benchmark.family.tower_weights(tower)
            with TensorFile(merged) as delta:
                for key, tensor in merged_weights(base_file, delta, value):
                    weights[key].copy_(tensor)

        if alpha["how"] == "search":
            curve = []
            for value in alpha["grid"]:
                move_to(value)
                curve.append(_point(value, normalised("val")))
                log.info("alpha %g: %.4f", value, curve[-1]["normalized_accuracy"])
            # Of equally good values the smallest: the least that was changed.
            best = max(curve, key=lambda point: (point["normalized_accuracy"], -point["alpha"]))
            alpha = {
                "value": best["alpha"],
                "how": "search",
                "split": "val",
                "criterion": "average normalized accuracy",
                "curve": curve,
            }
        move_to(alpha["value"])
        validation, test = normalised("val"), normalised("test")
    log.info(
        "alpha %g (%s): average accuracy %.4f",
        alpha["value"],
        alpha["how"],
        average(test)["accuracy"],
    )
    method = merger["method"]
    return result(
        encoder=names["encoder"],
        experts=names["experts"],
        benchmark=names["benchmark"],
        merger={
            "name": names.get("merger", method),
            "method": method,
            "parameters": merger.get("parameters", {}),
        },
        alpha=alpha,
        test=test,
        validation=validation,
        provenance=provenance,
    )


def _point(alpha: float, scores: Scores) -> dict[str, Any]:
    means = average(scores)
    kept = ("accuracy", "normalized_accuracy")
    return {
        "alpha": alpha,
        **{key: means[key] for key in kept},
        "tasks": {task: {key: score[key] for key in kept} for task, score in scores.items()},
    }
