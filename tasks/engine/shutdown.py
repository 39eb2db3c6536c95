"""Whether the worker stops: long runs then end at their next checkpoint instead of keeping the stop waiting.

The worker's leading process is told to stop, and its children do the work. They are forked from it, so one byte of
memory that all of them share carries the word.
"""

import mmap
from typing import Any

# Made before the fork, or there would be nothing to share. It is set once, in a process that is about to end.
_requested = mmap.mmap(-1, 1)


def request(**_: Any) -> None:
    """Tell this process and its children that the worker is to stop (receiver of Celery's `worker_shutting_down`)."""
    _requested[0] = 1


def is_requested() -> bool:
    """Whether this worker is to stop."""
    return _requested[0] != 0
