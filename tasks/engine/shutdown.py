"""Whether the worker stops: long runs then end at their next checkpoint instead of keeping the stop waiting.

The worker's main process is told to stop, but its children do the work. The children are forked from the main
process, so one byte of shared memory tells them.
"""

import mmap
from typing import Any

# Made before the fork, so that it is shared. It is never reset, because a worker that stops ends.
_requested = mmap.mmap(-1, 1)


def request(**_: Any) -> None:
    """Tell this process and its children that the worker is to stop (receiver of Celery's `worker_shutting_down`)."""
    _requested[0] = 1


def is_requested() -> bool:
    """Whether this worker is to stop."""
    return _requested[0] != 0
