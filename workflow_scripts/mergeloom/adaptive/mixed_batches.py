"""Accuracy on batches in which the inputs of all tasks are shuffled together."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mergeloom.adaptive.adapter import Adapter
from mergeloom.adaptive.entropy import joined
from mergeloom.adaptive.scores import Features
from mergeloom.evaluation.accuracy import Around
from mergeloom.evaluation.benchmark import Benchmark
from mergeloom.evaluation.examples import Examples
from mergeloom.evaluation.precision import check_loss, in_precision
from mergeloom.evaluation.results import Scores
from mergeloom.training.loop import generator

SPLIT = "mixed"  # of the benchmark, while they are scored
Batch = Mapping[str, Tensor]  # task -> indices of its inputs


class Grouped:
    """A split in groups of indices instead of batches."""

    def __init__(self, examples: Examples, groups: Sequence[Tensor]) -> None:
        self._examples, self._groups = examples, list(groups)
        self.labels = examples.labels[torch.cat(self._groups)]

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, size: int) -> Iterator[tuple[Any, Tensor]]:
        """Inputs and labels, int64 [b], of one group after the other, whatever `size` is."""
        for group in self._groups:
            inputs = self._examples.take(group)
            yield inputs, self._examples.labels[group].to(inputs.device)

    def take(self, indices: Tensor) -> Any:
        """The inputs of these, counted through all groups."""
        return self._examples.take(torch.cat(self._groups)[indices])


def mixed_batches(sizes: Mapping[str, int], batch_size: int, seed: int) -> list[Batch]:
    """The inputs of all tasks, shuffled together, in batches."""
    tasks = list(sizes)
    owner = torch.cat([torch.full((n,), k) for k, n in enumerate(sizes.values())])
    index = torch.cat([torch.arange(n) for n in sizes.values()])
    order = torch.randperm(len(owner), generator=generator(seed))
    return [
        {t: index[rows][owner[rows] == k] for k, t in enumerate(tasks) if (owner[rows] == k).any()}
        for rows in order.split(batch_size)
    ]


def score_by_features(
    benchmark: Benchmark, adapter: Adapter, split: str, features: Features, seed: int
) -> Scores:
    """Scores where the inputs of a mixed batch share the coefficients of their mean.

    Each batch is scored task by task, under the coefficients of all of it.
    """
    examples = benchmark.examples[split]
    sizes = {task: len(examples[task]) for task in benchmark.tasks}
    batches = mixed_batches(sizes, benchmark.batch_size, seed)
    with torch.no_grad():
        shared = [
            adapter.coefficients(torch.cat([features[t][rows] for t, rows in batch.items()]), 1)
            for batch in batches
        ]
    benchmark.examples[SPLIT], around = {}, {}
    for task in benchmark.tasks:
        present = [
            (batch[task], c) for batch, c in zip(batches, shared, strict=True) if task in batch
        ]
        benchmark.examples[SPLIT][task] = Grouped(examples[task], [rows for rows, _ in present])
        around[task] = _shared(adapter, present)
    try:
        turn = (adapter.mixture.tower, benchmark.tasks)
        return benchmark.scores([turn], [SPLIT], around)[SPLIT]
    finally:
        del benchmark.examples[SPLIT]


def _shared(adapter: Adapter, groups: Sequence[tuple[Tensor, Tensor]]) -> Around:
    starts, seen = {}, 0
    for rows, coefficients in groups:
        starts[seen] = coefficients
        seen += len(rows)
    return lambda rows: adapter.mixture.mixed(starts[rows.start])


@torch.inference_mode()
def score_together(benchmark: Benchmark, adapter: Adapter, split: str, seed: int) -> Scores:
    """Scores where a mixed batch must pass the tower as one: accuracy, loss and n, of images.

    Raises
    ------
    MergeloomError – when a logit is not finite.
    """
    examples, heads = benchmark.examples[split], benchmark.heads
    sizes = {task: len(examples[task]) for task in benchmark.tasks}
    ends = dict(zip(heads, torch.tensor([len(h) for h in heads.values()]).cumsum(0), strict=True))
    all_heads = torch.cat(list(heads.values()))
    correct, loss = dict.fromkeys(sizes, 0), dict.fromkeys(sizes, 0.0)
    forward = in_precision(adapter.mixture.tower, benchmark.precision, benchmark.device)
    for batch in mixed_batches(sizes, benchmark.batch_size, seed):
        inputs = joined([examples[task].take(rows) for task, rows in batch.items()])
        with adapter.applied(None, 1):
            logits = benchmark.family.logits(forward, all_heads, inputs)
        parts = logits.split([len(rows) for rows in batch.values()])
        for (task, rows), part in zip(batch.items(), parts, strict=True):
            part = part[:, ends[task] - len(heads[task]) : ends[task]]
            labels = examples[task].labels[rows].to(part.device)
            correct[task] += int((part.argmax(dim=1) == labels).sum())
            loss[task] += float(cross_entropy(part, labels, reduction="sum"))
    check_loss(torch.tensor(sum(loss.values())), "the model's logits", benchmark.precision)
    return {
        task: {"accuracy": correct[task] / n, "loss": loss[task] / n, "n": n}
        for task, n in sizes.items()
    }
