"""The examples that a statistic is taken of: few, drawn by a seed from the training images."""

import logging
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from mergeloom.data.decoded import Images, open_images

log = logging.getLogger(__name__)


def draw_examples(train: Path, count: int, seed: int) -> Images:
    """Return the first `count` images of a permutation of a decoded training split, in file order.

    Of a split that has fewer, all are returned.

    Parameters
    ----------
    train : decoded split (`mergeloom.data.decoded`).
    seed : the permutation depends on it and on the number of images alone.
    """
    images = open_images(train)
    if len(images) < count:
        log.info("%s: has %d images, fewer than the %d asked for", train, len(images), count)
    chosen = shuffled(images.labels, count, torch.Generator().manual_seed(seed))
    return Images(images.images[chosen], images.labels[chosen])


def shuffled(labels: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """The first `count` of a permutation of examples with labels int64 [n], sorted, int64."""
    return torch.randperm(len(labels), generator=generator)[:count].sort().values


def stratified(labels: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` of n examples with labels int64 [n], as equal per class as can be, sorted, int64.

    The first of every class in a permutation, then the second of every class, and so on; the last
    round ends, in the order of the permutation, when there are enough.
    """
    order = torch.randperm(len(labels), generator=generator)
    permuted = labels[order]
    by_class = permuted.argsort(stable=True)
    grouped = permuted[by_class]
    rounds = torch.empty_like(order)
    rounds[by_class] = torch.arange(len(order)) - torch.searchsorted(grouped, grouped)
    return order[rounds.argsort(stable=True)[:count]].sort().values


Draw = Callable[[Tensor, int, torch.Generator], Tensor]
DRAWS: dict[str, Draw] = {"shuffled": shuffled, "stratified": stratified}
