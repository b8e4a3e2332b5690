"""The examples that a statistic is taken of: few, drawn by a seed from the training images."""

import logging
from pathlib import Path

import torch

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
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    chosen = order[:count].sort().values
    return Images(images.images[chosen], images.labels[chosen])
