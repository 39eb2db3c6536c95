"""Keeps the questions that a worker asks Redis every few seconds from taking much of its time when Redis is slow."""

from collections.abc import Callable
from time import monotonic
from typing import Any

_PAUSE_FOR_EACH_SECOND = 20
# A call that is quicker than this may be repeated at once.
_QUICK_SECONDS = 0.25


class Seldom:
    """Calls a function, and leaves out further calls for twenty times as long as the last call took.

    A worker's event loop runs the timers that are due before it looks for messages. With a Redis that answers only
    after some seconds, a timer would always be due, and the worker would never take a message.
    """

    def __init__(self, call: Callable[..., object]) -> None:
        self._call, self._not_before = call, 0.0

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        began = monotonic()
        if began < self._not_before:
            return
        try:
            self._call(*args, **kwargs)
        finally:
            now = monotonic()
            if now - began > _QUICK_SECONDS:
                self._not_before = now + (now - began) * _PAUSE_FOR_EACH_SECOND
