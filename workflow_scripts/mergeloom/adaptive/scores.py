"""Accuracy of an adapted model, whose weights depend on its inputs."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial

from torch import Tensor

from mergeloom.adaptive.adapter import Adapter
from mergeloom.evaluation.accuracy import Around
from mergeloom.evaluation.benchmark import Benchmark
from mergeloom.evaluation.results import Scores

Features = Mapping[str, Tensor]  # task -> φ(x) of a split, float32 [n, d], on the device


def score(
    benchmark: Benchmark,
    adapter: Adapter,
    split: str,
    features: Features | None,
    granularity: str,
    entering: Callable[[str], None] | None = None,
) -> Scores:
    """Accuracy, loss, n and metrics on a split of every task, each under its own head.

    Parameters
    ----------
    features : of the split; None for an adapter that takes none.
    granularity : "sample", every input has weights of its own, or "batch": those of a batch (of the
        benchmark's batch size, in the order of the split) share them.
    entering : called with the task before each of its batches.
    """
    around = {
        task: _around(
            adapter,
            None if features is None else features[task],
            granularity,
            partial(entering, task) if entering else None,
        )
        for task in benchmark.tasks
    }
    turn = (adapter.mixture.tower, benchmark.tasks)
    return benchmark.scores([turn], [split], around)[split]


def _around(
    adapter: Adapter,
    features: Tensor | None,
    granularity: str,
    entering: Callable[[], None] | None,
) -> Around:
    def enter(rows: slice) -> AbstractContextManager[None]:
        if entering:
            entering()
        part = None if features is None else features[rows]
        return adapter.applied(part, rows.stop - rows.start if granularity == "sample" else 1)

    return enter
