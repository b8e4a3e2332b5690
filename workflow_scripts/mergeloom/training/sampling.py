"""The order in which an epoch goes through training images, where it is no plain permutation."""

from collections.abc import Callable

import torch
from torch import Tensor

from mergeloom.data.class_counts import count_classes
from mergeloom.training.loop import generator


def balanced_order(labels: Tensor, classes: int, seed: int, title: str) -> Callable[[int], Tensor]:
    """A function epoch -> int64 [n], as many images as there are, every class equally likely.

    Images are drawn with replacement: those of small classes repeat, not all of large ones occur.

    Parameters
    ----------
    labels : int64 [n].
    classes : of the head.
    title : the run, for messages.

    Raises
    ------
    MergeloomError – a class without an image.
    """
    names = [f"label {label}" for label in range(classes)]
    counts = torch.from_numpy(count_classes(labels.numpy(), names, title))
    weights = counts.double().reciprocal()[labels]

    def order(epoch: int) -> Tensor:
        random = generator(seed, epoch)
        return torch.multinomial(weights, len(labels), replacement=True, generator=random)

    return order
