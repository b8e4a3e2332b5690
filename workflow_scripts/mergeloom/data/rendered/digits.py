"""Handwritten digits: the test part of the UCI set, as scikit-learn ships it."""

import functools

import numpy as np
from PIL import Image

from mergeloom.data.rendered.canvas import SIZE, Rng
from mergeloom.data.rendered.registry import renderer

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@functools.cache
def _scans() -> dict[str, list[np.ndarray]]:
    # scikit-learn takes a second to import, and only this renderer needs it.
    from sklearn.datasets import load_digits

    scans = load_digits()
    return {
        number: [
            image
            for image, target in zip(scans.images, scans.target, strict=True)
            if target == value
        ]
        for value, number in enumerate(NUMBERS)
    }


@renderer("digits", NUMBERS)
def digits(classname: str, rng: Rng) -> np.ndarray:
    """One of the 174 to 183 scans of a class (8x8, 17 grey levels), scaled up smoothly."""
    scans = _scans()[classname]
    small = Image.fromarray((scans[rng.integers(len(scans))] * 255 / 16).astype(np.uint8))
    image = np.asarray(small.resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    return np.repeat(image[:, :, None], 3, axis=2)
