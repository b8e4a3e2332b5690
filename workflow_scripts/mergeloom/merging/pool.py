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
_BUDGET = 2**31  # bytes of what is under way


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

    def map(
        self,
        function: Callable[[Item], Result],
        items: Iterable[Item],
        cost: Callable[[Item], int] = lambda item: 0,
    ) -> Iterator[Result]:
        """Apply a function to all items; results come in order, and few are waiting at a time.

        Some may wait, so that a quick item does not stop the work behind a slow one.

        Parameters
        ----------
        cost : bytes that an item takes while it is worked on. Those under way stay below two
            gibibytes together, but for an item that takes more by itself: more cores do not take
            more memory.
        """
        if self._on_gpu:
            torch.cuda.synchronize()  # what the items refer to is ready for other streams
        waiting: deque[tuple[Future[Result], int]] = deque()
        queue = deque(itertools.islice(items := iter(items), 1))
        taken = 0
        try:
            while queue or waiting:
                while queue and len(waiting) < self._workers + _WAITING:
                    bytes_of_item = cost(queue[0])
                    if waiting and taken + bytes_of_item > _BUDGET:
                        break
                    future = self._executor.submit(self._finish, function, queue.popleft())
                    waiting.append((future, bytes_of_item))
                    taken += bytes_of_item
                    queue.extend(itertools.islice(items, 1))
                future, bytes_of_item = waiting.popleft()
                yield future.result()
                del future
                taken -= bytes_of_item
        finally:
            for future, _ in waiting:
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
