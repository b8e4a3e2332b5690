"""Adaptation at test time: minimise the entropy of predictions on unlabelled inputs."""

import logging
import math
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from mergeloom.adaptive.adapter import Adapter
from mergeloom.adaptive.entropy import mean_entropies
from mergeloom.adaptive.outcome import AVERAGE, Adaptation, keeps_all
from mergeloom.adaptive.plan import Plan
from mergeloom.adaptive.progress import Progress
from mergeloom.adaptive.sampling import Reshuffled
from mergeloom.adaptive.scores import Features, score
from mergeloom.errors import MergeloomError
from mergeloom.evaluation.benchmark import Benchmark
from mergeloom.evaluation.examples import Examples
from mergeloom.evaluation.precision import NotFinite
from mergeloom.evaluation.results import normalise_scores
from mergeloom.training.recipe import Span
from mergeloom.training.registry import Trained, get_part

log = logging.getLogger(__name__)

# Why adaptation may end early.
ENTROPY, VALIDATION = "the entropy is not finite", "the validation loss is not finite"
PROBE = 4  # batches of every task that the entropy of a checkpoint is measured on


class Minimiser:
    """Entropy minimisation of one adapter on the tasks of a benchmark.

    Parameters
    ----------
    benchmark : heads of the tasks, and their validation splits as `val`.
    examples, features : inputs of each task to adapt to, and their φ(x); features None for an
        adapter that takes none.
    val_features : φ(x) of the validation splits.
    reference : task to `accuracy` of its fine-tuned model on validation data.
    granularity : of validation, "sample" or "batch": that of the evaluation, so that a choice is
        made of what is evaluated. A gate that was trained on the means of batches may be good for
        batches, and poor for single inputs.
    """

    def __init__(
        self,
        adapter: Adapter,
        benchmark: Benchmark,
        plan: Plan,
        *,
        examples: Mapping[str, Examples],
        features: Features | None,
        val_features: Features | None,
        reference: Mapping[str, Mapping[str, float]],
        granularity: str,
        seed: int,
    ) -> None:
        self._granularity = granularity
        self.adapter, self.benchmark, self.plan = adapter, benchmark, plan
        self._examples, self._features = examples, features
        self._val_features, self._reference = val_features, reference
        self._samplers = {t: Reshuffled(seed, t, len(e)) for t, e in examples.items()}
        self._probes = {t: Reshuffled(seed + 1, t, len(e)) for t, e in examples.items()}
        self._parameters = {n: p for n, p in adapter.named_parameters() if p.requires_grad}
        if not self._parameters:
            raise MergeloomError("this adapter has nothing to train; leave `steps` out")
        self._optimizer = get_part("optimizer", plan.optimizer).function(
            Trained(self._parameters, {}, False), plan.lr, plan.weight_decay
        )

    def run(self, state: Path, fingerprint: str, title: str) -> Adaptation:
        """Adapt; go on from the resume state `state` of an interrupted run of the same kind.

        Where the entropy of a step or a checkpoint is not finite, or what the model puts out for
        validation data, adaptation ends there, and the adapter is left as it was at the last
        checkpoint: `stopped` says so, and a warning.

        Raises
        ------
        MergeloomError – one of these is not finite before the first step.
        """
        plan, progress = self.plan, Progress(self.adapter, self._parameters, self._optimizer)
        found = progress.load(state, fingerprint) or Adaptation()
        rate = get_part("schedule", plan.schedule).function
        step = found.steps[-1] if found.rows else 0
        if not found.rows and (broken := self._checkpoint(found, 0, title)):
            raise MergeloomError(
                f"{title}: before adaptation {broken}: a task vector or the base has values that "
                "are too large"
            )
        while step < plan.steps and found.stopped is None:
            begun = time.perf_counter()
            self._optimizer.zero_grad(set_to_none=True)
            batches = self._batch(self._samplers, step)
            loss = self.adapter.gradients(step, partial(self._entropy, batches))
            if not torch.isfinite(loss):
                found.stopped = {"step": step, "reason": ENTROPY}
                break
            for group in self._optimizer.param_groups:
                group["lr"] = rate(plan.lr, step, Span(0, plan.steps, plan.steps))
            self._optimizer.step()
            step += 1
            found.seconds += time.perf_counter() - begun
            if step % plan.checkpoint and step < plan.steps:
                continue
            if broken := self._checkpoint(found, step, title):
                found.stopped = {"step": step, "reason": broken}
            elif step < plan.steps:
                if self._is_late(found):
                    found.stopped = {"step": step, "reason": "patience"}
                progress.save(state, fingerprint, found)
        if found.stopped and found.stopped["reason"] != "patience":
            log.warning(
                "%s: %s at step %d; the state of step %d is kept",
                title, found.stopped["reason"], found.stopped["step"], found.steps[-1],
            )  # fmt: skip
        chosen = found.chosen(plan.keep)
        if fell := found.collapsed(chosen)["tasks"]:
            log.warning(
                "%s: collapsed on %s: entropy fell, and validation accuracy, too; take fewer steps "
                "or a lower learning rate, or `keep: best`",
                title, ", ".join(fell),
            )  # fmt: skip
        self.adapter.load(found.states[chosen])
        return found

    def _batch(self, samplers: Mapping[str, Reshuffled], number: int) -> dict[str, Tensor]:
        return {task: s.batch(number, self.plan.batch_size) for task, s in samplers.items()}

    def _entropy(self, batches: Mapping[str, Tensor]) -> Tensor:
        return self._entropies(batches).sum()

    def _entropies(self, batches: Mapping[str, Tensor]) -> Tensor:
        """Mean entropy of each task's batch [tasks], all tasks in one pass."""
        inputs = [self._examples[task].take(rows) for task, rows in batches.items()]
        features = None
        if self._features is not None:
            features = torch.cat([self._features[task][rows] for task, rows in batches.items()])
        count = sum(len(rows) for rows in batches.values())
        groups = len(batches) if self.plan.granularity == "batch" else count
        heads = [self.benchmark.heads[task] for task in batches]
        mixture = self.adapter.mixture
        with self.adapter.applied(features, groups):
            return mean_entropies(mixture.family, mixture.tower, heads, inputs)

    def _checkpoint(self, found: Adaptation, step: int, title: str) -> str | None:
        """Measure and keep the state; where it is broken, say what is not finite instead."""
        tasks = list(self._examples)
        with torch.no_grad():
            probes = [self._entropies(self._batch(self._probes, n)) for n in range(PROBE)]
        entropies = torch.stack(probes).mean(dim=0).tolist()
        if not all(map(math.isfinite, entropies)):
            return ENTROPY
        given = (self.benchmark, self.adapter, "val", self._val_features, self._granularity)
        try:
            scores = score(*given)
        except NotFinite:
            return VALIDATION
        scores = normalise_scores(scores, self._reference)
        rows = [
            {
                "step": step,
                "task": task,
                "entropy": entropy,
                "val_accuracy": scores[task]["accuracy"],
                "val_loss": scores[task]["loss"],
                "val_normalized_accuracy": scores[task]["normalized_accuracy"],
            }
            for task, entropy in zip(tasks, entropies, strict=True)
        ]
        mean = {key: sum(r[key] for r in rows) / len(rows) for key in list(rows[0])[2:]}
        rows.append({"step": step, "task": AVERAGE, **mean})
        found.rows += rows
        found.states[step] = {n: t.cpu().clone() for n, t in self.adapter.state().items()}
        self._forget(found)
        log.info(
            "%s: step %d/%d, entropy %.4f, validation accuracy %.4f",
            title, step, self.plan.steps, mean["entropy"], mean["val_accuracy"],
        )  # fmt: skip
        return None

    def _forget(self, found: Adaptation) -> None:
        """Of large states, keep only those that may yet be chosen."""
        if keeps_all(found.states):
            return
        wanted = {found.steps[-1], found.chosen(self.plan.keep)}
        for step in [s for s in found.states if s not in wanted]:
            del found.states[step]

    def _is_late(self, found: Adaptation) -> bool:
        """Whether no checkpoint of the last `patience` was better than the best before them."""
        since = len(found.steps) - 1 - found.steps.index(found.chosen("best"))
        return self.plan.patience is not None and since >= self.plan.patience
