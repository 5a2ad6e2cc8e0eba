"""Threads that work ahead: in order, within bounds, an error where its result is taken."""

import threading
import time
from collections.abc import Iterator

import pytest

from padim_jax.images.ahead import map_ahead


def test_results_come_in_order_whatever_is_done_first() -> None:
    def work(item: int) -> int:
        time.sleep(0.01 * (item % 3 == 0))
        return item * item

    for eager in (False, True):
        assert [(item, future.result()) for item, future in map_ahead(work, range(12), 4, eager=eager)] == [
            (item, item * item) for item in range(12)
        ]


@pytest.mark.parametrize("eager", [False, True])
def test_no_more_items_are_taken_than_may_be_under_way(eager: bool) -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for item in range(50):
            taken += 1
            yield item

    for given, _ in enumerate(map_ahead(lambda item: time.sleep(0.001), items(), 4, eager=eager), start=1):
        assert taken - given <= 4


def test_the_threads_are_ahead_before_the_first_result_is_given() -> None:
    begun = threading.Semaphore(0)
    results = map_ahead(lambda item: begun.release(), range(20), 5)
    next(results)
    assert all(begun.acquire(timeout=10) for _ in range(6))  # the one given, and five more
    results.close()  # type: ignore[attr-defined]  # a generator


def test_an_eager_result_does_not_wait_for_more_items() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(20):
            taken.append(item)
            time.sleep(0.05 * bool(item))  # each takes longer to come than to be worked on
            yield item

    next(map_ahead(str, items(), 10, eager=True))
    assert len(taken) < 10


def test_an_error_is_raised_where_its_result_is_taken_and_ends_no_other() -> None:
    def work(item: int) -> int:
        if item == 1:
            raise ValueError("item 1")
        return item

    futures = [future for _, future in map_ahead(work, range(3), 2)]
    assert (futures[0].result(), futures[2].result()) == (0, 2)
    with pytest.raises(ValueError, match="item 1"):
        futures[1].result()


def test_what_was_not_begun_is_dropped_when_the_caller_stops() -> None:
    worked: list[int] = []
    results = map_ahead(lambda item: (time.sleep(0.005), worked.append(item)), range(1000), 900)
    next(results)
    results.close()  # type: ignore[attr-defined]  # a generator
    assert len(worked) < 900
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]
