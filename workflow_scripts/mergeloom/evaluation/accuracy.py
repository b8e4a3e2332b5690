"""Accuracy and cross-entropy of one model on one task."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mergeloom.evaluation.evaluators import get_evaluator
from mergeloom.evaluation.examples import Examples
from mergeloom.evaluation.precision import check_loss, in_precision
from mergeloom.models.family import Family

Around = Callable[[slice], AbstractContextManager[object]]


class Counter(Protocol):
    """What is counted over all predictions beside accuracy and loss."""

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Count a batch: float32 [b, classes] and int64 [b], on the model's device."""
        ...


@torch.inference_mode()
def evaluate(
    family: Family,
    tower: Any,
    head: Any,
    examples: Examples,
    *,
    device: str,
    batch_size: int,
    precision: str = "float32",
    counters: Sequence[Counter] = (),
    around: Around = lambda rows: nullcontext(),
) -> dict[str, float]:
    """Accuracy (fraction of 1) and mean cross-entropy (nats) over all examples.

    A modality may have an evaluator of its own (`mergeloom.evaluation.evaluators`), which then
    gives further scores. Of the others the accuracy is that of the highest logits, and sums stay on
    the device until the end, so that a GPU never waits for the processor between two batches.

    Parameters
    ----------
    precision : of the tower (`mergeloom.evaluation.precision`); logits and sums are of float32.
    counters : each is given all logits.
    around : entered for every batch with its rows, for towers that are other ones for other inputs.

    Returns
    -------
    dict with `accuracy`, `loss`, `n`, and what the modality's own evaluator gives beside them.

    Raises
    ------
    MergeloomError – when a logit is not finite.
    """
    own = get_evaluator(family.modality)
    if own:
        return own(
            family,
            tower,
            head,
            examples,
            device=device,
            batch_size=batch_size,
            precision=precision,
            counters=counters,
            around=around,
        )
    forward = in_precision(tower, precision, device)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    seen = 0
    for inputs, labels in examples.batches(batch_size):
        with around(slice(seen, seen := seen + len(labels))):
            logits = family.logits(forward, head, inputs)
        correct += (logits.argmax(dim=1) == labels).sum()
        loss += cross_entropy(logits, labels, reduction="sum")
        for counter in counters:
            counter.update(logits, labels)
    check_loss(loss, "the model's logits", precision)
    n = len(examples)
    return {"accuracy": int(correct) / n, "loss": float(loss) / n, "n": n}
