"""Random streams that belong to names."""

import zlib

import numpy as np


def stream(seed: int, *names: str) -> np.random.Generator:
    """A generator of its own for every seed and names, whatever else is drawn."""
    return np.random.default_rng([seed, *(zlib.crc32(name.encode()) for name in names)])
