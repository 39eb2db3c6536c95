"""Whether the worker stops: long tasks then hand on at their next checkpoint instead of keeping the stop waiting.

The worker's leading process is told to stop, and its children do the work. They are forked from it, so one byte of
memory that all of them share carries the word.
"""

import mmap
from typing import Any

from celery.signals import worker_shutting_down

# Made before the fork, or there would be nothing to share. It is set once, in a process that is about to end.
_asked = mmap.mmap(-1, 1)


def connect() -> None:
    """Have this process, if it becomes a worker, tell its children when it is to stop."""
    worker_shutting_down.connect(_ask)


def is_asked() -> bool:
    """Whether this worker is to stop."""
    return _asked[0] != 0


def _ask(**_: Any) -> None:
    _asked[0] = 1
