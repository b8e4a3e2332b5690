"""The pool of threads: order, few results waiting, errors, and threads of linear algebra."""

import threading
import time

import pytest
import torch
from threadpoolctl import threadpool_info

from mergeloom.merging.pool import _BUDGET, _WAITING, pool


def blas_threads() -> set[int]:
    return {lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"}


def test_results_come_in_the_order_of_the_items() -> None:
    def slow_at_first(item: int) -> int:
        time.sleep(0.02 if item == 0 else 0)
        return item

    with pool(3) as threads:
        assert list(threads.map(slow_at_first, range(50))) == list(range(50))


def test_items_are_worked_on_side_by_side() -> None:
    both = threading.Barrier(2, timeout=10)
    with pool(2) as threads:
        list(threads.map(lambda item: both.wait(), range(4)))


def test_few_items_are_taken_before_their_results_are_asked_for() -> None:
    taken = []
    with pool(2) as threads:
        results = threads.map(lambda item: item, (taken.append(i) or i for i in range(1000)))
        assert next(results) == 0
        assert len(taken) <= 2 + _WAITING + 1


def test_an_error_of_an_item_is_raised_and_ends_the_work() -> None:
    done = []

    def fails(item: int) -> None:
        done.append(item)
        if item == 3:
            raise ValueError("item 3")

    with pool(2) as threads, pytest.raises(ValueError, match="item 3"):
        list(threads.map(fails, range(1000)))
    assert len(done) < 3 + 2 * (2 + _WAITING)


def test_linear_algebra_takes_one_thread_within_and_what_it_had_afterwards() -> None:
    torch_before, blas_before = torch.get_num_threads(), blas_threads()
    with pool(2) as threads:
        assert set(threads.map(lambda item: torch.get_num_threads(), range(4))) == {1}
        assert blas_threads() <= {1}
    assert torch.get_num_threads() == torch_before
    assert blas_threads() == blas_before


def test_what_is_under_way_keeps_to_the_budget_but_for_a_single_large_item() -> None:
    under_way, most = 0, 0
    lock = threading.Lock()

    def work(item: int) -> None:
        nonlocal under_way, most
        with lock:
            under_way += item
            most = max(most, under_way)
        time.sleep(0.005)
        with lock:
            under_way -= item

    half = _BUDGET // 2
    with pool(4) as threads:
        list(threads.map(work, [half] * 8, cost=lambda item: item))
        assert half < most <= _BUDGET
        most = 0
        list(threads.map(work, [3 * _BUDGET, 3 * _BUDGET], cost=lambda item: item))
        assert most == 3 * _BUDGET
