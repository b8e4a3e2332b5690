"""Top-1 accuracy and cross-entropy of one model on one task."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mergeloom.data.decoded import Images, normalise
from mergeloom.errors import MergeloomError
from mergeloom.models.family import Family

Preprocessing = dict[str, Any]  # the encoder preset's `image`: size, mean, std


def batches(
    images: Images, preprocessing: Preprocessing, device: str, size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalised float32 [b, 3, s, s] and labels int64 [b] on the device, in order."""
    for start in range(0, len(images), size):
        pixels = images.images[start : start + size].to(device)
        labels = images.labels[start : start + size].to(device)
        yield normalise(pixels, preprocessing["mean"], preprocessing["std"]), labels


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
) -> dict[str, float]:
    """Accuracy (fraction of 1) and mean cross-entropy (nats) over all images, in float32.

    Returns
    -------
    dict with `accuracy`, `loss` and `n`.

    Raises
    ------
    MergeloomError – when a logit is not finite.
    """
    correct, loss = 0, 0.0
    for pixels, labels in batches(images, preprocessing, device, batch_size):
        logits = family.logits(tower, head, pixels)
        correct += int((logits.argmax(dim=1) == labels).sum())
        loss += float(cross_entropy(logits, labels, reduction="sum"))
    if loss != loss or loss in (float("inf"), float("-inf")):
        raise MergeloomError(
            "the model's logits are not finite: a weight of it is NaN or too large"
        )
    return {"accuracy": correct / len(images), "loss": loss / len(images), "n": len(images)}
