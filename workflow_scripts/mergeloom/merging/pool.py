"""Work on many parameters at a time, one thread each, with results in order."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits

Item = TypeVar("Item")
Result = TypeVar("Result")
_WAITING = 8  # results beside those that are worked on


class Pool:
    """Threads that each work on a parameter of their own, so that reading, transfer to a device
    and computing overlap.

    Linear algebra takes one thread within each: matrices of a model side by side keep all cores
    busier than one matrix on all of them, and results do not depend on the number of threads. On a
    GPU each thread has a stream of its own.
    """

    def __init__(self, workers: int, device: str) -> None:
        self._workers = workers
        self._on_gpu = device != "cpu"
        self._executor = ThreadPoolExecutor(
            workers, thread_name_prefix="merge", initializer=self._begin
        )

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Apply a function to all items; results come in order, and few are waiting at a time.

        Some may wait, so that a quick item does not stop the work behind a slow one.
        """
        if self._on_gpu:
            torch.cuda.synchronize()  # what the items refer to is ready for other streams
        waiting: deque[Future[Result]] = deque()
        items = iter(items)
        try:
            for item in itertools.islice(items, self._workers + _WAITING):
                waiting.append(self._executor.submit(self._finish, function, item))
            while waiting:
                result = waiting.popleft().result()
                for item in itertools.islice(items, 1):
                    waiting.append(self._executor.submit(self._finish, function, item))
                yield result
                del result
        finally:
            for future in waiting:
                future.cancel()

    def close(self) -> None:
        """Drop what has not begun, and wait for the rest."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _begin(self) -> None:
        torch.set_num_threads(1)
        if self._on_gpu:
            torch.cuda.set_stream(torch.cuda.Stream())

    def _finish(self, function: Callable[[Item], Result], item: Item) -> Result:
        result = function(item)
        if self._on_gpu:
            torch.cuda.current_stream().synchronize()
        return result


@contextmanager
def pool(workers: int, device: str = "cpu") -> Iterator[Pool]:
    """Give a pool of threads; libraries of linear algebra take one thread each meanwhile."""
    threads = torch.get_num_threads()
    with threadpool_limits(1, user_api="blas"):
        torch.set_num_threads(1)
        made = Pool(workers, device)
        try:
            yield made
        finally:
            made.close()
            torch.set_num_threads(threads)
