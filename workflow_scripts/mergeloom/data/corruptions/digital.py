"""Contrast, pixelation, compression."""

import io

import numpy as np
from PIL import Image

from mergeloom.data.corruptions.registry import corruption

CONTRASTS = (0.4, 0.3, 0.2, 0.1, 0.05)
SIZES = (0.6, 0.5, 0.4, 0.3, 0.25)  # of the smaller image, as a share of the larger
QUALITIES = (25, 18, 15, 10, 7)


@corruption("contrast")
def contrast(image: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    """Every value moves towards its channel's mean over the image."""
    mean = image.mean(axis=(0, 1), keepdims=True)
    return mean + CONTRASTS[severity - 1] * (image - mean)


@corruption("pixelate")
def pixelate(image: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    """Made smaller and larger again, both times with a box filter."""
    whole = _picture(image)
    size = max(1, int(len(image) * SIZES[severity - 1]))
    small = whole.resize((size, size), Image.Resampling.BOX)
    return _values(small.resize(whole.size, Image.Resampling.BOX))


@corruption("jpeg_compression")
def jpeg_compression(image: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    """Compressed as JPEG and decompressed."""
    buffer = io.BytesIO()
    _picture(image).save(buffer, "JPEG", quality=QUALITIES[severity - 1])
    with Image.open(buffer) as compressed:
        return _values(compressed)


def _picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(np.rint(image * 255).astype(np.uint8))


def _values(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture, dtype=np.float32) / 255
