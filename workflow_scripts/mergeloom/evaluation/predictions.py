"""What models predict for what, and how sure they are, counted over the test images."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mergeloom.errors import MergeloomError
from mergeloom.evaluation.benchmark import Benchmark
from mergeloom.evaluation.metrics import Confusion, Reliability
from mergeloom.evaluation.models import Turn


def count_predictions(
    benchmark: Benchmark, turns: Iterable[Turn], classnames: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """Count the predictions of models on the test images of their tasks, in one pass.

    Parameters
    ----------
    classnames : of each task, in the order of labels.

    Returns
    -------
    Per task: `classnames`, `confusion` [label][prediction], `reliability` (count, correct and
    summed confidence of each bin), `accuracy`, `mean_class_recall` and `ece`.

    Raises
    ------
    MergeloomError – a task's head has another number of classes than there are names.
    """
    found = {}
    for tower, tasks in turns:
        for task in tasks:
            names, classes = classnames[task], benchmark.classes(task)
            if len(names) != classes:
                raise MergeloomError(
                    f"{task}: its head has {classes} classes, its class list {len(names)}; build "
                    "the head again"
                )
            confusion = Confusion(classes, benchmark.device)
            reliability = Reliability(classes, benchmark.device)
            score = benchmark.count(tower, "test", task, [confusion, reliability])
            found[task] = {
                "classnames": list(names),
                "confusion": confusion.counts.tolist(),
                "reliability": {
                    "count": reliability.count.tolist(),
                    "correct": reliability.correct.tolist(),
                    "confidence": reliability.confidence.tolist(),
                },
                "accuracy": score["accuracy"],
                "mean_class_recall": confusion.score(),
                "ece": reliability.score(),
            }
    return found
