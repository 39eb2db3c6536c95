"""A worker's main process reports every two seconds (tasks/monitoring/report.py), tells its counts
(tasks/monitoring/totals.py), and notes now and then what rates of queues are made of (readings/rates.py).

A thread of its own writes to Redis, over a connection of its own and with short timeouts, so that a Redis that is
slow, silent, full or away keeps neither the event loop from its work nor the worker from a stop. The thread is
started after the first processes of the pool were forked, and holds no lock that a child would need.
"""

import os
import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from celery.signals import worker_ready, worker_shutdown
from celery.utils.log import get_logger
from redis.exceptions import ResponseError

from tasks.engine import shutdown
from tasks.errors import EmailError, InternalError
from tasks.monitoring import connections, report, totals
from tasks.monitoring.readings import rates
from tasks.monitoring.report import INTERVAL_SECONDS, Child, Connections, Report, Work
from tasks.runtime.broker.master import client_of
from tasks.runtime.outcomes import Outcome
from tasks.runtime.signals import task_begun, task_ended
from tasks.settings import get_settings
from tasks.storage.session import POOL_SIZE

_logger = get_logger(__name__)

_ANSWER_SECONDS = 1
# How long a worker that stops waits for its last counts to be told.
_LAST_SECONDS = 1
# An event loop that has not turned for so long does not consume. It waits for a slow Redis for 5 s at a time.
_STUCK_SECONDS = 10
# Memory and connections are looked at in each so many reports: for the kernel to add up memory takes milliseconds a
# process.
_MEMORY_EVERY = 5
_MAX_WORDS = 500


def connect() -> None:
    """Have the worker that this process may become report."""
    worker_ready.connect(_start)


def _start(sender: Any, **_: Any) -> None:
    reporter = Reporter(sender)
    task_begun.connect(reporter.on_begun, weak=False)
    task_ended.connect(reporter.on_ended, weak=False)
    worker_shutdown.connect(reporter.end, weak=False)
    reporter.start()


class _Begun(NamedTuple):
    """A request that a process has begun, and when, in seconds of time.monotonic()."""

    request: Any
    at: float


class Reporter(threading.Thread):
    """Reports on the worker with this consumer (tasks/runtime/consumer.py)."""

    def __init__(self, consumer: Any) -> None:
        super().__init__(name="reporter", daemon=True)
        self._consumer = consumer
        self._began_at = time.monotonic()
        self._has_to_end = threading.Event()
        self._totals = totals.Totals()
        self._at_work: dict[int, _Begun] = {}  # by process
        self._memory: dict[int, int | None] = {}
        self._connections: Connections | None = None
        self._reports = 0
        self._release = _release()
        self._is_heard = True

    def on_begun(self, sender: Any, at: float, **_: Any) -> None:
        """A process begins a task."""
        self._at_work[sender.worker_pid] = _Begun(sender, at)
        if (due := getattr(sender.message, "due", None)) is not None:
            self._totals.observe(at - due, "wait", sender.task.name)
        if sender.delivery_info["redelivered"]:
            self._totals.add("redelivered", sender.task.name)

    def on_ended(
        self, sender: Any, outcome: Outcome, error: BaseException | None, seconds: float | None, **_: Any
    ) -> None:
        """A task ended."""
        if (begun := self._at_work.get(sender.worker_pid)) and begun.request is sender:
            del self._at_work[sender.worker_pid]
        self._totals.add("ended", sender.task.name, outcome)
        if seconds is not None:
            self._totals.observe(seconds, "run", sender.task.name, outcome)
        if outcome in (Outcome.FAILURE, Outcome.RETRY) and error is not None:
            # Only our own errors have codes, so that the number of names stays bounded.
            code = error.code if isinstance(error, EmailError) else InternalError.code
            self._totals.add("error", sender.task.name, code)

    def end(self, **_: Any) -> None:
        """Tell what is left, if Redis answers soon, and report no more."""
        self._has_to_end.set()
        self.join(_LAST_SECONDS)

    def run(self) -> None:
        """Report until the worker has stopped."""
        options = {"socket_timeout": _ANSWER_SECONDS, "socket_connect_timeout": _ANSWER_SECONDS}
        with client_of(get_settings().redis.broker, **options) as client:
            while True:
                is_last = self._has_to_end.wait(0 if self._reports == 0 else INTERVAL_SECONDS)
                self._tell(client, is_last=is_last)
                if is_last:
                    return

    def _tell(self, client: Any, *, is_last: bool) -> None:
        """Report once. That reports fail is logged once; the next one follows anyway, whatever the error."""
        try:
            try:
                self._totals.tell(client)
                if is_last:
                    report.take_back(client, self._consumer.hostname)
                else:
                    report.tell(client, self._look())
                    rates.note(client)
            except ResponseError:
                totals.mend(client)
                rates.mend(client)
                report.mend(client)
                raise
        except Exception as error:
            if self._is_heard:
                _logger.warning("the worker cannot report on itself: %s: %s", type(error).__name__, error)
            self._is_heard = False
        else:
            self._is_heard = True

    def _look(self) -> Report:
        now, consumer, pool = time.monotonic(), self._consumer, self._consumer.pool
        at_work, pids = self._at_work.copy(), pool.pids
        if self._reports % _MEMORY_EVERY == 0:
            self._memory = {pid: _pss(pid) for pid in (os.getpid(), *pids)}
            self._connections = _connections(pids)
        self._reports += 1
        works = {pid: _work(begun.request, now - begun.at) for pid, begun in at_work.items()}
        return Report(
            node=consumer.hostname,
            host=socket.gethostname(),
            pid=os.getpid(),
            release=self._release,
            seconds=now - self._began_at,
            concurrency=pool.num_processes,
            consumes=consumer.is_consuming and now - consumer.turned_at < _STUCK_SECONDS,
            is_stopping=shutdown.is_requested(),
            reserved=max(consumer.in_hand - len(works), 0),
            restarts=pool.restarts,
            pss=self._memory.get(os.getpid()),
            connections=self._connections,
            children=tuple(Child(pid=pid, pss=self._memory.get(pid), work=works.get(pid)) for pid in pids),
        )


def _work(request: Any, seconds: float) -> Work:
    return Work(
        id=request.id,
        name=request.task.name,
        positional=request.argsrepr[:_MAX_WORDS],
        named=request.kwargsrepr[:_MAX_WORDS],
        seconds=max(seconds, 0),
    )


def _connections(children: Sequence[int]) -> Connections:
    """What the worker's processes hold. The pool of a child is as large as that of any process."""
    found = connections.held((os.getpid(), *children), connections.ports(get_settings()))
    return Connections(**{"redis": 0, "postgresql": 0, **found}, postgresql_kept=POOL_SIZE * len(children))


def _pss(pid: int) -> int | None:
    """The proportional share of memory of a process, in bytes (proc_pid_smaps(5)); None where that is not told."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        return int(rollup.partition("\nPss:")[2].split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        return None


def _release() -> str:
    """The release of this code on a host; empty in a clone."""
    try:
        return (Path(sys.prefix) / "RELEASE").read_text().strip()
    except OSError:
        return ""
