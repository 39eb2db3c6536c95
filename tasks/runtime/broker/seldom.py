"""What a worker asks Redis every few seconds takes little of its time, however slowly Redis answers."""

from collections.abc import Callable
from time import monotonic
from typing import Any

_PAUSE_FOR_EACH_SECOND = 20
# What takes no longer is no burden.
_QUICK_SECONDS = 0.25


class Seldom:
    """Calls, but not again for twenty times as long as the last call took.

    The event loop of a worker calls what is due before it looks for messages: with a Redis that answers after some
    seconds, something would always be due.
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
