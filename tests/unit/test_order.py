"""Order statistics of streams against sorting them."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor

from mergeloom.linalg.order import RankSelector, kth_largest

TINY = np.finfo(np.float32).smallest_subnormal


def stream(values: np.ndarray, parts: int = 3) -> Callable[[], list[Tensor]]:
    return lambda: [torch.from_numpy(part) for part in np.array_split(values, parts)]


def samples() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    normal = rng.standard_normal(5000)
    extremes = [0.0, -0.0, np.inf, -np.inf, TINY, -TINY, np.finfo(np.float32).max, 1.0, -1.0]
    kinds = {
        "normal": normal,
        "many scales": normal * 10.0 ** rng.integers(-42, 38, 5000),
        "ties": rng.integers(-3, 4, 5000) / 4,
        "equal": np.full(500, -0.1),
        "zeros": np.zeros(500),
        "one bin": 1 + rng.random(5000) / 256,
        "denormals": rng.integers(-300, 300, 5000) * float(TINY),
        "extremes": np.repeat(extremes, 3),
        "one": np.array([-2.5]),
    }
    return {name: values.astype(np.float32) for name, values in kinds.items()}


@pytest.mark.parametrize("kind", samples())
@pytest.mark.parametrize("signed", [False, True])
def test_every_rank_is_that_of_the_sorted_values(kind: str, signed: bool) -> None:
    values = samples()[kind]
    expected = np.sort(values if signed else np.abs(values))[::-1]
    # Repeated and unordered, with both ends.
    ranks = [len(values), 1, *np.random.default_rng(1).integers(1, len(values) + 1, 50).tolist(), 1]
    found = kth_largest(stream(values), ranks, signed=signed)
    assert found == [float(expected[rank - 1]) for rank in ranks]


def test_more_values_than_one_step_takes() -> None:
    values = np.random.default_rng(0).standard_normal(300_001).astype(np.float32)
    expected = np.sort(np.abs(values))[::-1]
    assert kth_largest(stream(values, 1), [60_000]) == [float(expected[59_999])]


def test_the_second_reading_may_be_divided_otherwise_and_fed_by_threads() -> None:
    values = np.random.default_rng(0).standard_normal(20_000).astype(np.float32)
    ranks = [1, 2000, 10_000, 20_000]
    selector = RankSelector(ranks)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(selector.add, stream(values, 40)()))
        selector.refine()
        list(pool.map(selector.add, reversed(stream(values, 7)())))
    expected = np.sort(np.abs(values))[::-1]
    assert selector.values() == [float(expected[rank - 1]) for rank in ranks]


def test_chunks_of_any_shape_and_no_chunk_at_all() -> None:
    grid = torch.arange(-6.0, 6.0).reshape(3, 4)
    assert kth_largest(lambda: [grid.T, torch.zeros(0), grid[0]], [1, 3, 16]) == [6.0, 5.0, 0.0]
    assert kth_largest(lambda: [], []) == []


@pytest.mark.parametrize("rank", [-1, 0, 6])
def test_a_rank_outside_the_stream_is_refused(rank: int) -> None:
    with pytest.raises(ValueError, match="rank"):
        kth_largest(lambda: [torch.ones(5)], [1, rank])


@pytest.mark.parametrize("bits", [0x7FC00000, 0x7F800001, -0x00400000, -0x007FFFFF])
@pytest.mark.parametrize("signed", [False, True])
def test_nan_is_refused_whatever_its_bits(bits: int, signed: bool) -> None:
    values = torch.tensor([1, bits, 2], dtype=torch.int32).view(torch.float32)
    assert values.isnan()[1]
    with pytest.raises(ValueError, match="NaN"):
        kth_largest(lambda: [values], [1], signed=signed)


def test_values_that_are_not_float32_are_refused() -> None:
    with pytest.raises(ValueError, match="float32"):
        kth_largest(lambda: [torch.ones(5, dtype=torch.float64)], [1])


def test_a_stream_that_differs_in_its_second_reading_is_refused() -> None:
    selector = RankSelector([1])
    selector.add(torch.ones(5))
    with pytest.raises(ValueError, match="once"):
        selector.values()
    selector.refine()
    selector.add(torch.ones(4))
    with pytest.raises(ValueError, match="differ"):
        selector.values()
