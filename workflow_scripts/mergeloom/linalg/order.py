"""Exact order statistics of a stream of float32 values that is read twice.

The bit pattern of a non-negative float32, taken as an integer, is in the order of the values. The
first reading counts the high 16 bits; that says in which of the bins each wanted value lies. The
second counts the low 16 bits within those bins. Nothing is sorted, and nothing but the counts is
kept: at most 65536 for the first reading, and as many for each bin of the second.
"""

from collections.abc import Callable, Iterable, Sequence
from threading import Lock

import numpy as np
import torch
from torch import Tensor

# Values per step: they, their bits and the counts stay in a core's cache.
_PIECE = 1 << 17

_LOW_BITS = 16
_BINS = 1 << _LOW_BITS
_MAGNITUDE = 0x7FFFFFFF
# High bits of infinity; what is NaN has these or higher ones.
_INFINITE = 0x7F80


def kth_largest(
    chunks: Callable[[], Iterable[Tensor]], ranks: Sequence[int], *, signed: bool = False
) -> list[float]:
    """The k-th largest magnitude (or value) of a stream, for each k of `ranks`.

    Equal to sorting the concatenated stream, ties, zeros and denormals included.

    Parameters
    ----------
    chunks : starts the stream; called twice. Each chunk: Tensor of any shape, float32, on the CPU.
    ranks : counted from 1, the largest; in any order, repeats allowed.
    signed : order the values themselves, not their magnitudes.

    Raises
    ------
    ValueError : a rank outside 1 … number of values, a NaN, a chunk that is not float32, or two
        readings that differ.
    """
    selector = RankSelector(ranks, signed=signed)
    for chunk in chunks():
        selector.add(chunk)
    selector.refine()
    for chunk in chunks():
        selector.add(chunk)
    return selector.values()


class RankSelector:
    """The two readings behind `kth_largest`, for a caller that feeds them itself.

    `add` every chunk, `refine`, `add` every chunk again – in any order and division – and take
    `values`. Several threads may `add` at once: the counting lets go of the interpreter lock, and
    the result does not depend on them.

    Parameters
    ----------
    ranks : counted from 1, the largest; in any order, repeats allowed.
    signed : order the values themselves, not their magnitudes.
    """

    def __init__(self, ranks: Sequence[int], *, signed: bool = False) -> None:
        if min(ranks, default=1) < 1:
            raise ValueError(f"ranks are counted from 1: {list(ranks)}")
        self._ranks = list(ranks)
        # The high bits of a signed key are in [-offset, offset).
        self._signed, self._offset = signed, _BINS // 2 if signed else 0
        self._lock = Lock()
        self._counts = np.zeros(_BINS, np.int64)
        # Set by `refine`: the bins that hold wanted values, and their counts [bins, 65536].
        self._bins: list[int] | None = None
        self._fine = np.zeros((0, _BINS), np.int64)

    def add(self, chunk: Tensor) -> None:
        """Count one chunk: Tensor of any shape, float32, on the CPU.

        Raises
        ------
        ValueError : it is not float32, or has a NaN.
        """
        if chunk.dtype != torch.float32:
            raise ValueError(f"order statistics are of float32 values, not {chunk.dtype}")
        flat = chunk.detach().reshape(-1)
        if self._bins is None:
            counts = self._coarse(flat)
            with self._lock:
                self._counts += counts
        elif self._bins:
            fine = self._within(flat, self._bins)
            with self._lock:
                self._fine += fine

    def refine(self) -> None:
        """End the first reading.

        Raises
        ------
        ValueError : a rank is larger than the number of values.
        """
        total = int(self._counts.sum())
        if max(self._ranks, default=0) > total:
            raise ValueError(f"rank {max(self._ranks)} of {total} values")
        self._bins = sorted({_bin_of(self._counts, rank) for rank in self._ranks})
        self._fine = np.zeros((len(self._bins), _BINS), np.int64)

    def values(self) -> list[float]:
        """The wanted values, in the order of the ranks.

        Raises
        ------
        ValueError : `refine` was not called, or the second reading was not that of the first.
        """
        if self._bins is None:
            raise ValueError("the stream has been read once only: call refine, and add it again")
        if (self._fine.sum(axis=1) != self._counts[self._bins]).any():
            raise ValueError("the two readings of the stream differ")
        return [self._value(rank, self._bins) for rank in self._ranks]

    def _value(self, rank: int, bins: list[int]) -> float:
        high = _bin_of(self._counts, rank)
        larger = int(self._counts[high + 1 :].sum())
        low = _bin_of(self._fine[bins.index(high)], rank - larger)
        key = ((high - self._offset) << _LOW_BITS) + low
        bits = key if key >= 0 else key ^ _MAGNITUDE
        # A negative zero is equal to zero.
        return float(np.int32(bits).view(np.float32)) + 0.0

    def _coarse(self, flat: Tensor) -> np.ndarray:
        counts = torch.zeros(_BINS, dtype=torch.int64)
        # Half the bins are enough for magnitudes, and half the cache.
        used = counts[: _BINS if self._signed else _BINS // 2]
        for piece in flat.split(_PIECE):
            keys = self._keys(piece)
            keys >>= _LOW_BITS
            keys += self._offset
            used += torch.bincount(keys, minlength=len(used))
        extremes = counts[_INFINITE + self._offset :], counts[: self._offset - _INFINITE]
        if any(counts.any() for counts in extremes[: 1 + self._signed]) and flat.isnan().any():
            raise ValueError("the values contain a NaN")
        return counts.numpy()

    def _within(self, flat: Tensor, bins: list[int]) -> np.ndarray:
        found: list[list[np.ndarray]] = [[] for _ in bins]
        for piece in flat.split(_PIECE):
            keys = self._keys(piece).numpy()
            high = keys >> _LOW_BITS
            for keep, wanted in zip(found, bins, strict=True):
                keep.append(keys[high == wanted - self._offset])
        return np.stack([_low_counts(np.concatenate(keys)) for keys in found])

    def _keys(self, piece: Tensor) -> Tensor:
        """Integers in the order of the values [p], as a copy."""
        bits = piece.view(torch.int32)
        # A negative value's other bits are turned over: they grow away from zero.
        return bits ^ ((bits >> 31) & _MAGNITUDE) if self._signed else bits & _MAGNITUDE


def _low_counts(keys: np.ndarray) -> np.ndarray:
    return torch.bincount(torch.from_numpy(keys & (_BINS - 1)), minlength=_BINS).numpy()


def _bin_of(counts: np.ndarray, rank: int) -> int:
    """The bin that holds the value of this rank, counted from 1 in the last bin."""
    from_the_top = np.cumsum(counts[::-1])
    return len(counts) - 1 - int(np.searchsorted(from_the_top, rank))
