"""Random numbers that belong to an element of a task vector, and not to the order of work."""

import hashlib
import math

import numpy as np
import torch
from torch import Tensor

BLOCK = 2**16  # elements that share a generator; runs of elements begin at multiples of it


class Random:
    """Numbers for elements `start` to `stop` of one parameter of T task vectors.

    Each depends on the seed, the task vector (by what is in it), the parameter's name and the
    element's index, and on nothing else: neither the order of tasks, nor how a parameter is taken
    apart, nor the device changes it.
    """

    def __init__(
        self, seed: int, identities: list[bytes], key: str, start: int, stop: int, device: str
    ) -> None:
        if start % BLOCK:
            raise ValueError(f"element {start} is no multiple of {BLOCK}")
        self._seed, self._identities, self._key = seed, identities, key
        self._start, self._stop, self._device = start, stop, device

    def uniform(self) -> Tensor:
        """Return numbers in [0, 1), float32 [T, n]: `view_as` shapes them as the task vectors."""
        count = self._stop - self._start
        values = np.empty((len(self._identities), count), dtype=np.float32)
        for identity, row in zip(self._identities, values, strict=True):
            for block in range(math.ceil(count / BLOCK)):
                index = self._start // BLOCK + block
                text = f"{self._seed} {index} {self._key}".encode()
                seed = hashlib.sha256(identity + text).digest()
                generator = np.random.Generator(np.random.SFC64(np.frombuffer(seed, np.uint32)))
                part = row[block * BLOCK : (block + 1) * BLOCK]
                generator.random(dtype=np.float32, out=part)
        return torch.from_numpy(values).to(self._device)
