"""Threads that work ahead of the consumer of their results, within bounds and in order."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

CORES = os.cpu_count() or 1


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], limit: int, *, eager: bool = False, name: str = "ahead"
) -> Iterator[tuple[Item, Future[Result]]]:
    """Map ``function`` over ``items`` in threads: each item in order, with a future of its result.

    An error of ``function`` is raised by the future, so that one item that fails need not end the others. Memory does
    not grow with the number of items. Where the caller stops early, what was not begun is dropped.

    Args:
      function: called in threads, several at once.
      items: taken one by one, in the caller's thread.
      limit: how many items may be under way at a time.
      eager: give results as soon as they exist; else ``limit`` items are put under way first, so that the threads stay
        busy while the caller works.
      name: of the threads.
    """
    pool = ThreadPoolExecutor(CORES, thread_name_prefix=name)
    pending: deque[tuple[Item, Future[Result]]] = deque()
    try:
        for item in items:
            pending.append((item, pool.submit(function, item)))
            while len(pending) > limit or (eager and pending and pending[0][1].done()):
                yield pending.popleft()
        while pending:
            yield pending.popleft()
    finally:
        pool.shutdown(cancel_futures=True)
