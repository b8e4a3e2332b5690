"""Evaluate models on a benchmark in one sitting: images, heads and tower loaded once."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mergeloom.data.decoded import open_images
from mergeloom.evaluation.accuracy import evaluate
from mergeloom.evaluation.results import Scores, average, normalise_scores, result
from mergeloom.io.tensors import TensorFile
from mergeloom.models.family import get_family
from mergeloom.models.weights import PER_TASK, merged_weights, read_tower

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
        merger={
            "name": "finetuned",
            "method": None,
            "parameters": {},
            "modifiers": [],
            "per_task": True,
        },
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
    merged : the merged task vector Δ, or one per task; None evaluates the base itself.
    merger : preset with `method` and, if any, `parameters` and `modifiers`.
    alpha : `{"how": "search", "grid", "patience"}`, or `{"how": "fixed" | "table", "value", ...}`.
    finetuned : result of the fine-tuned models, which accuracies are normalised by.
    """
    reference = {
        "val": finetuned["validation"]["tasks"],
        "test": finetuned["tasks"],
    }
    with ExitStack() as stack:
        base_file = stack.enter_context(TensorFile(base))
        delta = stack.enter_context(TensorFile(merged)) if merged else None
        per_task = delta is not None and PER_TASK in delta.metadata
        tower = benchmark.tower(base_file)

        def move_to(value: float, task: int | None = None) -> None:
            if delta is not None:
                weights = benchmark.family.tower_weights(tower)
                for key, tensor in merged_weights(base_file, delta, value, task):
                    weights[key].copy_(tensor)

        def scores(value: float, splits: Sequence[str]) -> list[Scores]:
            found: list[Scores] = [{} for _ in splits]
            # A model per task is evaluated on its own, one model for all on all of them.
            turns: list[tuple[int | None, list[str]]] = [(None, benchmark.tasks)]
            if per_task:
                turns = [(index, [task]) for index, task in enumerate(benchmark.tasks)]
            for task, tasks in turns:
                move_to(value, task)
                for split, collected in zip(splits, found, strict=True):
                    collected |= normalise_scores(
                        benchmark.scores(tower, split, tasks), reference[split]
                    )
            return found

        if alpha["how"] == "search":
            alpha = search_alpha(alpha, lambda value: scores(value, ["val"])[0])
        validation, test = scores(alpha["value"], ["val", "test"])
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
            "modifiers": merger.get("modifiers", []),
            "per_task": per_task,
        },
        alpha=alpha,
        test=test,
        validation=validation,
        provenance=provenance,
    )


def search_alpha(search: Mapping[str, Any], validate: Callable[[float], Scores]) -> dict[str, Any]:
    """Choose the alpha of the best average normalised accuracy on validation data.

    Of equally good values the smallest is taken: the least that is changed.

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
