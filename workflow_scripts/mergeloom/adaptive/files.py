"""Adapt and evaluate, from files to files."""

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mergeloom.adaptive.adaptation import Minimiser
from mergeloom.adaptive.adapter import Adapter, build, centre_of, get_adapter
from mergeloom.adaptive.evaluation import Evaluation, evaluate_adapted, take_low_rank
from mergeloom.adaptive.mixture import Mixture
from mergeloom.adaptive.outcome import Adaptation, columns, keeps_all, stacked
from mergeloom.adaptive.plan import Plan
from mergeloom.adaptive.scores import Features
from mergeloom.adaptive.state_file import describe, load_state, read_state, write_state
from mergeloom.evaluation.benchmark import Benchmark, check_precision, precision_of
from mergeloom.evaluation.examples import Examples, open_examples
from mergeloom.features.feature_file import describe_features, read_features
from mergeloom.io.jsonfile import write_json
from mergeloom.io.parquet import write_parquet
from mergeloom.io.tensors import write_tensors

log = logging.getLogger(__name__)
PathLike = str | Path
Paths = Sequence[PathLike]


class Subject:
    """An adapter's preset on an encoder and its experts: the adapter, unadapted, and its sidecar.

    Parameters
    ----------
    encoder : preset with `family` and `architecture`.
    task_vectors : a file for each of `tasks`, or one with a Δ per task.
    preset : an adapter's.
    features : one file of the features that the adapter reads; None where it reads none.
    names : encoder, experts, benchmark.
    """

    def __init__(
        self,
        *,
        encoder: Mapping[str, Any],
        base: PathLike,
        task_vectors: PathLike | Paths,
        tasks: Sequence[str],
        preset: Mapping[str, Any],
        features: PathLike | None,
        names: Mapping[str, str],
        seed: int,
        device: str,
    ) -> None:
        self.entry = get_adapter(preset["method"])
        self.preset, self.tasks, self.device = preset, list(tasks), device
        settings = self.entry.check(preset.get("parameters", {}))
        about = None if features is None else describe_features(features)
        self.mixture = Mixture(encoder, base, task_vectors, device, centre_of(settings))
        self.adapter: Adapter = build(
            self.mixture, self.entry.name, settings, None if about is None else about["d"], seed
        )
        self.sidecar = describe(
            self.mixture,
            method=self.entry.name,
            parameters=settings,
            tasks=self.tasks,
            vectors=preset.get("vectors"),
            features=about,
            names=names,
        )

    def features(self, paths: Paths | None, examples: Mapping[str, Examples]) -> Features | None:
        """φ(x) of a split of every task, checked to be of these examples; None without files."""
        if not paths:
            return None
        found = {}
        for (task, inputs), path in zip(examples.items(), paths, strict=True):
            extractor = self.sidecar["extractor"]
            rows = read_features(path, rows=len(inputs), extractor=extractor)
            found[task] = rows.to(self.device)
        return found


def adapt_files(
    subject: Subject,
    benchmark: Benchmark,
    *,
    inputs: Paths,
    features: Paths | None,
    val_features: Paths | None,
    finetuned: Mapping[str, Any],
    corruption: Mapping[str, Any] | None,
    seed: int,
    out: Path,
    checkpoints: Path,
    curve: Path,
    times: Path,
    fingerprint: str,
    title: str,
    metadata: Mapping[str, str],
) -> None:
    """Adapt, and write the state that is kept, those of checkpoints, the curve and the time taken.

    Parameters
    ----------
    benchmark : the tasks, with their validation splits as `val`.
    inputs : what is adapted to, a split of each task.
    features, val_features : φ(x) of it and of the validation splits, for an adapter that takes any.
    finetuned : result of the fine-tuned models on the benchmark's own examples.
    corruption : `corruption` and `severity` where the inputs are corrupted test inputs.
    out : the state goes here; a state to resume from lies beside it until all is done.
    checkpoints, curve : without steps, an empty file and a table without rows.

    Raises
    ------
    MergeloomError – features of other inputs, an entropy that is not finite from the start, or
    fine-tuned models that were evaluated in another precision than that of the validation here.
    """
    check_precision(benchmark, precision_of(finetuned))
    encoder, adapter = benchmark.encoder, subject.adapter
    examples = {
        task: open_examples(path, encoder, benchmark.device)
        for task, path in zip(subject.tasks, inputs or [], strict=bool(inputs))
    }
    of_inputs = subject.features(features, examples)
    plan = Plan.read(subject.preset.get("adaptation", {}))
    resume = out.with_name(f".{out.stem}.resume.safetensors")
    found = Adaptation()
    if subject.entry.trained:
        minimiser = Minimiser(
            adapter,
            benchmark,
            plan,
            examples=examples,
            features=of_inputs,
            val_features=subject.features(val_features, benchmark.examples["val"]),
            reference=finetuned["validation"]["tasks"],
            granularity=granularity_of(subject.preset),
            seed=seed,
        )
        found = minimiser.run(resume, fingerprint, title)
    else:
        begun = time.perf_counter()
        adapter.fit(None if of_inputs is None else list(of_inputs.values()))
        found.seconds = time.perf_counter() - begun
    summary = _summary(subject, plan, found, corruption, seed)
    write_parquet(curve, columns(found.rows), metadata)
    write_tensors(checkpoints, _checkpoints(found), metadata)
    steps = found.steps[-1] if found.steps else 0
    spent = {
        "adaptation_seconds": found.seconds,
        "seconds_per_step": found.seconds / steps if steps else None,
        **_machine(benchmark.device),
    }
    write_json(times, spent)
    write_state(out, adapter, subject.sidecar, summary, metadata)
    resume.unlink(missing_ok=True)


def _checkpoints(found: Adaptation) -> dict[str, torch.Tensor]:
    if found.states and keeps_all(found.states):
        return stacked(found.states)
    return {"steps": torch.zeros(0, dtype=torch.int64)}


def _summary(
    subject: Subject,
    plan: Plan,
    found: Adaptation,
    corruption: Mapping[str, Any] | None,
    seed: int,
) -> dict[str, Any] | None:
    """How it was adapted, as it stands in results; None where inputs were not looked at."""
    if not subject.entry.trained and not subject.entry.features:
        return None
    # What is corrupted are test inputs, whatever split the preset names for clean ones.
    split = "test" if corruption else plan.split
    content: dict[str, Any] = {"split": split, "seed": seed, **(corruption or {})}
    if not subject.entry.trained:
        return content
    chosen = found.chosen(plan.keep)
    return {
        **content,
        "steps": plan.steps,
        "chosen": chosen,
        "checkpoint": plan.checkpoint,
        "keep": plan.keep,
        "patience": plan.patience,
        "stopped_early": found.stopped is not None,
        **({"stopped": found.stopped} if found.stopped else {}),
        "granularity": plan.granularity,
        "batch_size": plan.batch_size,
        "optimizer": plan.optimizer,
        "schedule": plan.schedule,
        "lr": plan.lr,
        "weight_decay": plan.weight_decay,
        "collapsed": found.collapsed(chosen),
    }


def evaluate_files(
    subject: Subject,
    benchmark: Benchmark,
    *,
    adapted: PathLike,
    source: str | None,
    features: Paths | None,
    val_features: Paths | None,
    finetuned: Mapping[str, Any],
    names: Mapping[str, str],
    seed: int,
    provenance: Mapping[str, Any],
    evaluated_on: Mapping[str, Any] | None = None,
    svd: Paths | None = None,
) -> Evaluation:
    """Evaluate what `adapt_files` wrote.

    Parameters
    ----------
    source : the encoder that it was adapted on, where that is another one.
    features, val_features : φ(x) of the test and validation splits of `benchmark`, for an adapter
        that takes any.
    svd : SVD caches of the task vectors, for a low-rank form; computed where there are none.

    Raises
    ------
    MergeloomError – the adapter's sidecar disagrees with the target (says in which field), or
    features of other examples.
    """
    adapter, name = subject.adapter, names["adapter"]
    initial = {key: tensor.clone() for key, tensor in adapter.state().items()}
    stored = read_state(adapted)
    load_state(adapter, stored, subject.sidecar, source)
    given: Mapping[str, Any] = subject.preset.get("evaluation", {})
    form = take_low_rank(adapter, given, name, svd or None)
    of_splits: dict[str, Features | None] = {
        "test": subject.features(features, benchmark.examples["test"])
    }
    if "val" in benchmark.splits:
        of_splits["val"] = subject.features(val_features, benchmark.examples["val"])
    transferred = None
    if source is not None:
        transferred = {"encoder": source, "layers": len(stored.sidecar["keys"])}
    return evaluate_adapted(
        benchmark,
        adapter,
        initial if subject.entry.trained else None,
        about={
            "name": name,
            "method": subject.entry.name,
            "parameters": subject.sidecar["parameters"],
            "extractor": subject.sidecar["extractor"],
            "vectors": subject.sidecar["vectors"],
        },
        experts=subject.tasks,
        adaptation=stored.adaptation,
        evaluation={"granularity": granularity_of(subject.preset), **form},
        features=of_splits,
        finetuned=finetuned,
        names=names,
        seed=seed,
        provenance=provenance,
        transferred_from=transferred,
        evaluated_on=evaluated_on,
    )


def granularity_of(preset: Mapping[str, Any]) -> str:
    """Which inputs share a model where an adapter is evaluated: those of a batch, or none."""
    return str(preset.get("evaluation", {}).get("granularity", "sample"))


def times_of(evaluation: Evaluation, device: str) -> dict[str, Any]:
    """Times of an evaluation, in seconds, and what it ran on."""
    return {**evaluation.times, **_machine(device)}


def _machine(device: str) -> dict[str, Any]:
    return {"device": device, "threads": torch.get_num_threads()}
