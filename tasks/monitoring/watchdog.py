"""Tells systemd that a worker is alive, only while the worker consumes: its event loop turns and its pool takes work.

systemd restarts a unit that has been silent for WatchdogSec (docs/decisions/0030-alive-means-consumes.md). The event
loop itself says that it turns. Whether the pool takes work shows when a process begins what the loop gave to it:

    a task has begun and is within its time limit     the pool works, however many others wait
    no task is under way                              a free process is given a job that does nothing, and begins it
    neither, for WatchdogSec                          every process is stuck: the worker has itself restarted

The task of a stuck process that had begun it ends at its time limit, when Celery replaces the process. While the
broker is away there is no event loop, and each try to connect counts as alive (tasks/runtime/consumer.py).
"""

from time import monotonic
from typing import Any

from celery import Celery, bootsteps
from celery.utils.log import get_logger

from tasks.runtime import systemd

_logger = get_logger(__name__)

# In the time after which a silent worker is restarted, it looks at its pool this often; it gives the pool a job if
# nothing was begun during this many looks.
_LOOKS, _QUIET_LOOKS = 8, 2
# A task that is over its time limit by so many seconds does not count: its process should have been killed.
_GRACE_SECONDS = 10


def connect(app: Celery) -> None:
    """Have the workers of an application report to systemd that they are alive."""
    app.steps["consumer"].add(Watchdog)


class Watchdog(bootsteps.StartStopStep):  # type: ignore[misc]  # celery has no types
    """The part of a worker that is run by its event loop, and reports."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        super().__init__(parent, **kwargs)
        self._seconds = systemd.watchdog_seconds() or 0
        self.enabled = bool(self._seconds)

    def register_with_event_loop(self, consumer: Any, hub: Any) -> None:
        """Called after each connect. Time without an event loop says nothing about the pool."""
        self._pool, self._looked = consumer.pool, monotonic()
        self._begun()
        self._look()
        hub.call_repeatedly(self._seconds / _LOOKS, self._look)

    def _look(self) -> None:
        between, now = self._seconds / _LOOKS, monotonic()
        # If the process was stopped meanwhile, so was its pool.
        self._quiet_seconds += min(now - self._looked, 2 * between)
        self._looked = now
        if self._pool.is_at_work(_GRACE_SECONDS):
            self._begun()
        if self._quiet_seconds >= self._seconds:
            _logger.critical(
                "No process of the pool has begun anything for %.0f s, and none is at work on a task within its time"
                " limit: this worker has itself restarted",
                self._quiet_seconds,
            )
            systemd.notify_stuck()
            return
        systemd.notify_alive()
        if self._quiet_seconds >= _QUIET_LOOKS * between:
            self._pool.probe(self._begun)

    def _begun(self) -> None:
        self._quiet_seconds = 0.0
