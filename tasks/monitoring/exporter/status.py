"""What the status page says: how each part of the site is now, read in bounded time and in bounded numbers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from celery import Celery

from tasks.monitoring.canary import Consumption
from tasks.monitoring.exporter.question import Question
from tasks.monitoring.exporter.readiness import Readiness
from tasks.monitoring.readings.beat import Beat, beat
from tasks.monitoring.readings.queues import QueueReading, in_hand, queues
from tasks.monitoring.readings.workers import WorkerReading, workers
from tasks.runtime.broker import aside
from tasks.runtime.broker.transport import broker_client
from tasks.storage.counts import Counts, count
from tasks.storage.newest import FailingAccount, NewLetter, newest_dead_letters, newest_failing_accounts

_PATIENCE_SECONDS = 4
# So long one answer does for everybody who looks.
_SHARED_SECONDS = 2
# How many accounts and dead letters are shown.
MOST = 12

T = TypeVar("T")


@dataclass(frozen=True)
class Broker:
    """What Redis says."""

    queues: tuple[QueueReading, ...]
    workers: tuple[WorkerReading, ...]
    beat: Beat
    in_hand: int
    aside: int


@dataclass(frozen=True)
class Database:
    """What PostgreSQL says."""

    counts: Counts
    failing: list[FailingAccount]
    letters: list[NewLetter]


@dataclass(frozen=True)
class Status:
    """The parts of the site; None what cannot be read."""

    broker: Broker | None
    consumption: tuple[Consumption, ...] | None
    database: Database | None


class StatusReader:
    """Reads the status of the site of this application."""

    def __init__(self, app: Celery, readiness: Readiness) -> None:
        self._app, self._readiness = app, readiness
        options = {"patience": _PATIENCE_SECONDS, "shared_seconds": _SHARED_SECONDS}
        self._broker = Question("Redis (status page)", self._read_broker, **options)
        self._database = Question("PostgreSQL (status page)", _read_database, **options)

    def read(self) -> Status:
        """Read all parts. Those that do not answer in time are None."""
        asked = self._database.ask(), self._broker.ask()
        database, broker = _answer(asked[0].answer), _answer(asked[1].answer)
        # Without Redis there is no queue to ask.
        return Status(broker, _answer(self._readiness.queues) if broker else None, database)

    def _read_broker(self) -> Broker:
        with broker_client(self._app) as client:
            return _read(client)


def _read(client: Any) -> Broker:
    return Broker(queues(client), workers(client), beat(client), in_hand(client), aside.count(client))


def _read_database() -> Database:
    return Database(count(), newest_failing_accounts(MOST), newest_dead_letters(MOST))


def _answer(ask: Callable[[], T]) -> T | None:
    try:
        return ask()
    except Exception:  # of any kind: the log has it
        return None
