"""Endless batches of a task's inputs, in an order of its own for every pass."""

from functools import lru_cache
from zlib import crc32

import torch
from torch import Tensor

from mergeloom.training.loop import generator


class Reshuffled:
    """The passes over a split one after the other, each a new permutation, cut into batches.

    What a batch holds depends on the seed, the name of the task and the number of the batch alone.

    Parameters
    ----------
    size : of the split.
    """

    def __init__(self, seed: int, task: str, size: int) -> None:
        self._seed, self._name, self._size = seed, crc32(task.encode()), size
        self._pass = lru_cache(maxsize=2)(self._permutation)

    def _permutation(self, number: int) -> Tensor:
        random = generator(self._seed, self._name, number)
        return torch.randperm(self._size, generator=random)

    def batch(self, number: int, size: int) -> Tensor:
        """Indices of batch `number`, int64 [size]."""
        places = torch.arange(number * size, (number + 1) * size)
        return torch.stack([self._pass(int(p) // self._size)[int(p) % self._size] for p in places])
