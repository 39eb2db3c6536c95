"""Runs an iterator in a thread, a bounded number of items ahead of its consumer."""

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from contextvars import copy_context
from types import TracebackType
from typing import Generic, NamedTuple, Self, TypeVar

T = TypeVar("T")

# How often a producer with a full queue looks whether its consumer has ended.
_GIVE_UP_POLL_SECONDS = 0.1
_JOIN_SECONDS = 30


class _Failure(NamedTuple):
    error: BaseException


class _End:
    pass


class Prefetch(Generic[T]):
    """Iterate over `source` while a thread works `depth` items ahead.

    An error of the source is raised in the place of the item. While the consumer waits, `idle` is called every
    `idle_seconds`. If the `with` block is left early, `interrupt` is called to end the source's wait. When the block
    has ended, the thread has ended too.
    """

    def __init__(
        self,
        source: Generator[T],
        *,
        interrupt: Callable[[], None],
        idle: Callable[[], None],
        idle_seconds: float,
        depth: int = 1,
    ) -> None:
        self._source = source
        self._interrupt = interrupt
        self._idle = idle
        self._idle_seconds = idle_seconds
        self._items: queue.Queue[T | _Failure | _End] = queue.Queue(maxsize=depth)
        self._left = threading.Event()
        # The thread gets a copy of this context, because the known secrets are part of the context.
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._produce,), name="prefetch", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        if self._thread.is_alive():
            if error is not None:
                self._interrupt()
            self._thread.join(_JOIN_SECONDS)

    def __iter__(self) -> Iterator[T]:
        while True:
            try:
                item = self._items.get(timeout=self._idle_seconds)
            except queue.Empty:
                self._idle()
                continue
            if isinstance(item, _End):
                return
            if isinstance(item, _Failure):
                raise item.error
            yield item

    def _produce(self) -> None:
        try:
            with closing(self._source) as source:
                for item in source:
                    if not self._put(item):
                        return
            self._put(_End())
        except BaseException as error:
            self._put(_Failure(error))

    def _put(self, item: T | _Failure | _End) -> bool:
        while not self._left.is_set():
            try:
                self._items.put(item, timeout=_GIVE_UP_POLL_SECONDS)
            except queue.Full:
                continue
            return True
        return False
