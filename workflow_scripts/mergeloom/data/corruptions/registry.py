"""Corruptions by name, and what they make of images.

The parameters of the five severities are those of ImageNet-C (arXiv 1903.12261), which are for
images of 224 pixels. At another size, lengths in pixels are scaled by size/224, so that the same
picture looks the same; what has no length (noise, contrast, pixelation, compression) stays. Other
deviations: values are rounded to 8 bits and not cut off, and the result is not stored as JPEG.

A corruption is a function of the image in [0, 1], the severity and the image's own random numbers,
registered in a module of this package.
"""

import importlib
import pkgutil
import zlib
from collections.abc import Callable

import numpy as np

from mergeloom.errors import MergeloomError

SEVERITIES = range(1, 6)
REFERENCE_SIZE = 224  # pixels, which lengths are given for

Function = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]

_corruptions: dict[str, Function] = {}


def corruption(name: str) -> Callable[[Function], Function]:
    """Register `corrupt(image float32 [s, s, 3] in [0, 1], severity, random) -> the same shape`."""

    def register(function: Function) -> Function:
        _corruptions[name] = function
        return function

    return register


def corruptions() -> dict[str, Function]:
    """All corruptions by name."""
    package = importlib.import_module(__package__)
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{__package__}.{module.name}")
    return _corruptions


def corrupt(image: np.ndarray, name: str, severity: int, seed: int, index: int) -> np.ndarray:
    """Corrupt one image.

    The random numbers belong to seed, corruption and index: not to the severity, so that a higher
    one is more of the same, and not to the other images.

    Parameters
    ----------
    image : uint8 [s, s, 3].
    severity : 1 to 5.
    index : of the image in its split.

    Returns
    -------
    uint8 [s, s, 3].

    Raises
    ------
    MergeloomError – an unknown corruption, or another severity.
    """
    known = corruptions()
    if name not in known:
        raise MergeloomError(f"unknown corruption {name!r}; there is: {', '.join(sorted(known))}")
    if severity not in SEVERITIES:
        raise MergeloomError(f"{name}: severity is {severity}, expected 1 to {SEVERITIES[-1]}")
    random = np.random.default_rng([seed, zlib.crc32(name.encode()), index])
    corrupted = known[name](image.astype(np.float32) / 255, severity, random)
    return np.rint(np.clip(corrupted, 0, 1) * 255).astype(np.uint8)
