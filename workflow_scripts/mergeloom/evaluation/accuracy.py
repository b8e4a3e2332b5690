"""Top-1 accuracy and cross-entropy of one model on one task."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mergeloom.data.decoded import Images
from mergeloom.errors import MergeloomError
from mergeloom.evaluation.batches import Preprocessing, batches
from mergeloom.evaluation.precision import in_precision
from mergeloom.models.family import Family


class Counter(Protocol):
    """What is counted over all predictions beside accuracy and loss."""

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Count a batch: float32 [b, classes] and int64 [b], on the model's device."""
        ...


@torch.inference_mode()
def evaluate(
    family: Family,
    tower: Any,
    head: Tensor,
    images: Images,
    preprocessing: Preprocessing,
    *,
    device: str,
    batch_size: int,
    precision: str = "float32",
    counters: Sequence[Counter] = (),
) -> dict[str, float]:
    """Accuracy (fraction of 1) and mean cross-entropy (nats) over all images.

    Sums stay on the device until the end, so that a GPU never waits for the processor between two
    batches.

    Parameters
    ----------
    precision : of the tower (`mergeloom.evaluation.precision`); logits and sums are of float32.
    counters : each is given all logits.

    Returns
    -------
    dict with `accuracy`, `loss` and `n`.

    Raises
    ------
    MergeloomError – when a logit is not finite.
    """
    forward = in_precision(tower, precision, device)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    for pixels, labels in batches(images, preprocessing, device, batch_size):
        logits = family.logits(forward, head, pixels)
        correct += (logits.argmax(dim=1) == labels).sum()
        loss += cross_entropy(logits, labels, reduction="sum")
        for counter in counters:
            counter.update(logits, labels)
    if not torch.isfinite(loss):
        raise MergeloomError(
            "the model's logits are not finite: a weight of it is NaN or too large"
            + (
                ""
                if precision == "float32"
                else f", or evaluation.precision {precision} too narrow"
            )
        )
    n = len(images)
    return {"accuracy": int(correct) / n, "loss": float(loss) / n, "n": n}
