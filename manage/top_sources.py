"""What `top` shows, read again and again in threads, so that a server that does not answer holds up neither the other
nor the keys."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from redis import Redis

    from tasks.monitoring.readings.queues import QueueReading
    from tasks.monitoring.readings.rates import Snapshot
    from tasks.monitoring.readings.totals import TotalsReading
    from tasks.monitoring.readings.workers import WorkerReading

T = TypeVar("T")
# Rates are those of the last seconds, run times those of the last minute.
_RATE_SECONDS, _RUN_SECONDS = 10, 60
_KEPT = 60


@dataclass(frozen=True)
class Seen(Generic[T]):
    """What a source last said, and when by the monotonic clock; and why it does not say it now."""

    value: T | None = None
    at: float = 0.0
    trouble: str | None = None


class Source(Generic[T]):
    """Reads every so many seconds in a thread of its own, which ends with the program."""

    def __init__(self, read: Callable[[], T], seconds: float, words: Callable[[Exception], str]) -> None:
        self.seen: Seen[T] = Seen()
        self._read, self._seconds, self._words = read, seconds, words

    def start(self) -> None:
        """Begin to read."""
        threading.Thread(target=self._go_on, daemon=True).start()

    def _go_on(self) -> None:
        while True:
            try:
                self.seen = Seen(self._read(), time.monotonic())
            except Exception as error:  # whatever it is, it is shown, and the next try may succeed
                self.seen = Seen(self.seen.value, self.seen.at, self._words(error))
            time.sleep(self._seconds)


@dataclass(frozen=True)
class QueueRow:
    """A queue, with the messages a second that came and the tasks a second that ended."""

    reading: "QueueReading"
    in_rate: float
    out_rate: float


@dataclass(frozen=True)
class TaskRow:
    """A task by its name: how often it ran within a minute, and how long it took on average."""

    name: str
    runs: int
    seconds: float


@dataclass(frozen=True)
class BrokerReading:
    """What the broker's Redis knows."""

    queues: tuple[QueueRow, ...]
    workers: "tuple[WorkerReading, ...]"
    slowest: tuple[TaskRow, ...]
    beat_seconds: float | None


class Broker:
    """Reads the broker's Redis, and remembers enough of it for rates."""

    def __init__(self, client: "Redis") -> None:
        self._client = client
        self._before: deque[tuple[float, Snapshot, TotalsReading]] = deque(maxlen=_KEPT)

    def read(self) -> BrokerReading:
        """Read. Raises redis.exceptions.RedisError."""
        from tasks.monitoring.readings.beat import beat
        from tasks.monitoring.readings.queues import queues
        from tasks.monitoring.readings.rates import between, snapshot
        from tasks.monitoring.readings.totals import totals
        from tasks.monitoring.readings.workers import workers

        found, counted, now = queues(self._client), totals(self._client), time.monotonic()
        self._before.append((now, snapshot(now, found, counted), counted))
        passed = between(self._since(now - _RATE_SECONDS)[1], self._before[-1][1])
        rows = tuple(QueueRow(queue, *passed[queue.name]) for queue in found)
        slowest = _slowest(counted, self._since(now - _RUN_SECONDS)[2])
        return BrokerReading(rows, workers(self._client), slowest, beat(self._client).ticked)

    def _since(self, moment: float) -> "tuple[float, Snapshot, TotalsReading]":
        return next(one for one in self._before if one[0] >= moment)


def _slowest(now: "TotalsReading", then: "TotalsReading") -> tuple[TaskRow, ...]:
    before, rows = _run_times(then), []
    for name, (runs, seconds) in _run_times(now).items():
        runs_before, seconds_before = before.get(name, (0, 0.0))
        if runs > runs_before:
            rows.append(TaskRow(name, runs - runs_before, max(seconds - seconds_before, 0) / (runs - runs_before)))
    return tuple(sorted(rows, key=lambda row: -row.seconds))


def _run_times(counted: "TotalsReading") -> dict[str, tuple[int, float]]:
    """How often each task ran, and for how many seconds in all."""
    found: dict[str, tuple[int, float]] = {}
    for (name, _), histogram in counted.run.items():
        runs, seconds = found.get(name, (0, 0.0))
        found[name] = runs + sum(histogram.counts.values()), seconds + histogram.seconds
    return found
