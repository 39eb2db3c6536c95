"""Prefetch: items in order, errors in their place, and no thread that outlives its consumer."""

import threading
from collections.abc import Callable, Generator

import pytest

from tasks.engine.sync.prefetch import Prefetch
from tests.support.worker import wait_until


class Calls:
    """Counts how often it is called; after `limit` calls it lets `then` happen."""

    def __init__(self, then: Callable[[], None] = lambda: None, limit: int = 1) -> None:
        self.number = 0
        self._then, self._limit = then, limit

    def __call__(self) -> None:
        self.number += 1
        if self.number == self._limit:
            self._then()


def prefetch(
    source: Generator[int], *, interrupt: Callable[[], None] = lambda: None, idle: Callable[[], None] = lambda: None
) -> Prefetch[int]:
    return Prefetch(source, interrupt=interrupt, idle=idle, idle_seconds=0.01)


def no_prefetch_thread() -> bool:
    return not any(thread.name == "prefetch" for thread in threading.enumerate())


def test_items_come_in_order() -> None:
    with prefetch(n for n in range(100)) as items:
        assert list(items) == list(range(100))
    assert no_prefetch_thread()


def test_an_error_is_raised_where_its_item_would_have_come() -> None:
    def source() -> Generator[int]:
        yield 1
        yield 2
        raise LookupError("third")

    with prefetch(source()) as items:
        iterator = iter(items)
        assert [next(iterator), next(iterator)] == [1, 2]
        with pytest.raises(LookupError, match="third"):
            next(iterator)
    assert no_prefetch_thread()


def test_the_source_works_ahead_but_only_so_far() -> None:
    made: list[int] = []

    def source() -> Generator[int]:
        for number in range(10):
            made.append(number)
            yield number

    with prefetch(source()) as items:
        iterator = iter(items)
        assert next(iterator) == 0
        # Then one waits in the queue, and one in the hand of the thread
        wait_until(lambda: made == [0, 1, 2], "the thread does not work ahead", 5)
        assert next(iterator) == 1
        wait_until(lambda: made == [0, 1, 2, 3], "the thread does not go on", 5)


def test_a_consumer_that_fails_frees_a_source_that_waits() -> None:
    # Given a source that waits for something that does not come, as for a server that hangs
    freed, closed = threading.Event(), threading.Event()

    def source() -> Generator[int]:
        try:
            yield 1
            assert freed.wait(20)
            yield 2
        finally:
            closed.set()

    def consume() -> None:
        with prefetch(source(), interrupt=freed.set) as items:
            for _ in items:
                raise KeyError

    with pytest.raises(KeyError):
        consume()
    assert freed.is_set()
    assert closed.is_set()
    assert no_prefetch_thread()


def test_a_consumer_that_leaves_early_ends_the_thread_and_the_source() -> None:
    closed = threading.Event()

    def source() -> Generator[int]:
        try:
            yield from range(1000)
        finally:
            closed.set()

    with prefetch(source()) as items:
        assert next(iter(items)) == 0

    assert closed.is_set()
    assert no_prefetch_thread()


def test_idle_is_called_while_nothing_comes() -> None:
    ready = threading.Event()
    idle = Calls(ready.set, limit=3)

    def source() -> Generator[int]:
        assert ready.wait(20)
        yield 1

    with prefetch(source(), idle=idle) as items:
        assert list(items) == [1]

    assert idle.number >= 3


def test_an_error_of_idle_ends_it_all() -> None:
    # As when the lease was lost to another worker
    freed = threading.Event()

    def lost() -> None:
        raise PermissionError

    def source() -> Generator[int]:
        assert freed.wait(20)
        yield 1

    with pytest.raises(PermissionError), prefetch(source(), interrupt=freed.set, idle=lost) as items:
        list(items)

    assert no_prefetch_thread()
