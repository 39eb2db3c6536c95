"""What is wrong with the site, in a line each, the worst first."""

from collections.abc import Iterator
from enum import StrEnum, auto
from typing import NamedTuple

from tasks.monitoring.exporter.status import Broker, Database, Status
from tasks.storage.counts import OVERDUE_SECONDS
from tasks.storage.states import OutboxState

# Beat looks at its schedule every few seconds.
_BEAT_SECONDS = 60


class Level(StrEnum):
    """How bad a finding is."""

    BAD = auto()  # work stands still
    WARN = auto()  # a person should look


class Finding(NamedTuple):
    """A finding, in words for a person."""

    level: Level
    words: str


def findings(status: Status) -> list[Finding]:
    """All findings, the worst first."""
    found = [*_of_broker(status.broker), *_of_queues(status), *_of_database(status.database)]
    return sorted(found, key=lambda finding: list(Level).index(finding.level))


def _of_broker(broker: Broker | None) -> Iterator[Finding]:
    if broker is None:
        yield Finding(Level.BAD, "Redis does not answer: no task is taken")
        return
    if not broker.workers:
        yield Finding(Level.BAD, "No worker has reported within a day")
    if down := [worker.node for worker in broker.workers if not worker.is_up]:
        yield Finding(Level.WARN, f"{_number(len(down), 'worker')} down: {', '.join(down[:3])}")
    if broker.beat.ticked is None or broker.beat.ticked > _BEAT_SECONDS:
        yield Finding(Level.BAD, "Beat does not look at the schedule: no sync is queued")
    if broker.aside:
        yield Finding(Level.WARN, f"{_number(broker.aside, 'message')} that no worker could run")


def _of_queues(status: Status) -> Iterator[Finding]:
    if status.broker and status.consumption is None:
        yield Finding(Level.BAD, "Redis does not say whether the queues are consumed")
    if idle := [queue.name for queue in status.consumption or () if not queue.ok]:
        yield Finding(Level.BAD, f"No worker consumes {', '.join(idle)}")


def _of_database(database: Database | None) -> Iterator[Finding]:
    if database is None:
        yield Finding(Level.BAD, "PostgreSQL does not answer: nothing is synced or sent")
        return
    if late := late_accounts(database):
        yield Finding(Level.WARN, f"{_number(late, 'account')} whose sync has been due for 15 minutes")
    if unknown := sum(row.messages for row in database.counts.outbox if row.state == OutboxState.UNKNOWN):
        yield Finding(Level.WARN, f"{_number(unknown, 'message')} of which nobody knows whether they were sent")
    if letters := open_letters(database):
        yield Finding(Level.WARN, f"{_number(letters, 'task')} failed for good")


def late_accounts(database: Database) -> int:
    """How many accounts are overdue."""
    return sum(late.accounts for late in database.counts.late if late.seconds == OVERDUE_SECONDS)


def open_letters(database: Database) -> int:
    """How many dead letters were not queued again."""
    return sum(letters.letters for letters in database.counts.dead_letters if not letters.is_retried)


def _number(count: int, of: str) -> str:
    return f"{count:,} {of}{'' if count == 1 else 's'}"
