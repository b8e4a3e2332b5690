"""Augmentations of training images: functions of images and of uniform numbers drawn for each.

They work on batches of decoded squares on the training's device. What is done to an image depends
on its numbers alone, so a batch may be divided among devices and micro-batches.
"""

import math

import torch
from torch import Tensor

from mergeloom.training.registry import augmentation

ATTEMPTS = 10
RATIO = math.log(4 / 3)


@augmentation("none", draws=0)
def none(images: Tensor, draws: Tensor) -> Tensor:
    """The images as they are."""
    return images


@augmentation("random_resized_crop", draws=40)
def random_resized_crop(
    images: Tensor, draws: Tensor, *, crop_scale: tuple[float, float] = (0.9, 1.0)
) -> Tensor:
    """Crop a random part and enlarge it to the whole: open_clip's training transform.

    A box has a share of the area that is uniform in `crop_scale` and an aspect ratio that is
    log-uniform in 3/4 … 4/3; of ten such boxes the first that fits is taken, else the whole image
    (as torchvision's RandomResizedCrop does). Bicubic (a = -1/2, as Pillow), rounded to whole
    grey levels. Deviation: boxes are drawn in the cached centre square at the encoder's
    resolution, not in the image as it was published.

    Parameters
    ----------
    images : uint8 [b, s, s, 3].
    draws : float64 [b, 40], uniform in [0, 1), on the CPU.

    Returns
    -------
    uint8 [b, s, s, 3].
    """
    boxes = crop_boxes(draws, images.shape[1], crop_scale).to(images.device)
    return resized_crop(images, boxes)


def crop_boxes(draws: Tensor, size: int, crop_scale: tuple[float, float]) -> Tensor:
    """Boxes int64 [b, 4] (top, left, height, width) in squares of `size`, from draws [b, 40]."""
    area, ratio, top, left = draws.view(-1, ATTEMPTS, 4).unbind(-1)
    low, high = crop_scale
    area = size**2 * (low + (high - low) * area)
    ratio = (RATIO * (2 * ratio - 1)).exp()
    height, width = (area / ratio).sqrt().round(), (area * ratio).sqrt().round()
    fits = (height <= size) & (width <= size) & (height > 0) & (width > 0)
    top, left = (top * (size - height + 1)).floor(), (left * (size - width + 1)).floor()
    boxes = torch.stack([top, left, height, width], dim=-1)
    first = fits.to(torch.int64).argmax(dim=1)  # 0 where none fits
    boxes = boxes[torch.arange(len(boxes)), first]
    whole = torch.tensor([0, 0, size, size], dtype=boxes.dtype)
    return torch.where(fits.any(dim=1, keepdim=True), boxes, whole).to(torch.int64)


def resized_crop(images: Tensor, boxes: Tensor) -> Tensor:
    """Each image's box [b, 4] (top, left, height, width), enlarged to the image's size.

    Two products of matrices for all boxes at once: in a batch every box has another size.
    """
    size = images.shape[1]
    top, left, height, width = boxes.unbind(dim=1)
    rows, columns = _bicubic(top, height, size), _bicubic(left, width, size)
    pixels = images.permute(0, 3, 1, 2).float()
    # Pillow keeps whole grey levels between the two directions, too.
    pixels = (pixels @ columns.mT.unsqueeze(1)).round().clamp(0, 255)
    pixels = (rows.unsqueeze(1) @ pixels).round().clamp(0, 255)
    return pixels.to(torch.uint8).permute(0, 2, 3, 1)


def _bicubic(offset: Tensor, length: Tensor, size: int) -> Tensor:
    """Weights float32 [b, size, size] that spread `length` pixels from `offset` over `size`."""
    place = torch.arange(size, device=offset.device)
    offset, length = offset.view(-1, 1, 1), length.view(-1, 1, 1)
    centre = offset + (place.view(1, -1, 1) + 0.5) * length / size - 0.5
    x = (place.view(1, 1, -1) - centre).abs()
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = torch.where(x <= 1, near, torch.where(x < 2, far, 0.0))
    # What lies outside the box is not seen, not even by the pixels at its edge.
    weights = weights * ((place >= offset) & (place < offset + length))
    return weights / weights.sum(dim=-1, keepdim=True)
