"""Work on many parameters at a time, one thread each, with results in order."""

import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits

Item = TypeVar("Item")
Result = TypeVar("Result")
log = logging.getLogger(__name__)


class Pool:
    """Threads that each work on a parameter of their own, so that reading, transfer to a device
    and computing overlap.

    Linear algebra takes one thread within each: matrices of a model side by side keep all cores
    busier than one matrix on all of them, and results do not depend on the number of threads.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._executor = ThreadPoolExecutor(
            workers, thread_name_prefix="merge", initializer=torch.set_num_threads, initargs=(1,)
        )

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Apply a function to all items; results come in order, and few are waiting at a time."""
        waiting: deque[Future[Result]] = deque()
        items = iter(items)
        try:
            for item in itertools.islice(items, self._workers + 1):
                waiting.append(self._executor.submit(function, item))
            while waiting:
                result = waiting.popleft().result()
                for item in itertools.islice(items, 1):
                    waiting.append(self._executor.submit(function, item))
                yield result
                del result
        finally:
            for future in waiting:
                future.cancel()

    def close(self) -> None:
        """Drop what has not begun, and wait for the rest."""
        self._executor.shutdown(wait=True, cancel_futures=True)


@contextmanager
def pool(workers: int) -> Iterator[Pool]:
    """Give a pool of threads; libraries of linear algebra take one thread each meanwhile."""
    threads = torch.get_num_threads()
    with threadpool_limits(1, user_api="blas"):
        torch.set_num_threads(1)
        made = Pool(workers)
        try:
            yield made
        finally:
            made.close()
            torch.set_num_threads(threads)
