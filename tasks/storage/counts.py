"""Counts over all tenants, for metrics. Each is answered from an index of the few rows that it is about."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from sqlalchemy import Connection, text

from tasks.storage.session import unbound_transaction
from tasks.storage.webhooks.rounds import WebhookCount, read_webhook_count

# PostgreSQL gives up on a count that takes longer: a busy server matters more than a metric.
_PATIENCE = text("SET LOCAL statement_timeout = '3s'")
_CONNECTIONS = text(
    "SELECT sum(numbackends)::integer, current_setting('max_connections')::integer FROM pg_stat_database"
)

# An account whose sync has been due for longer is overdue: beat looks for due accounts every five minutes, and their
# syncs wait for one another. Late accounts are counted by this bound, among others.
OVERDUE_SECONDS = 900


class Accounts(NamedTuple):
    """How many accounts that should be synced are in this state, all with the same error.

    The state is `paused` (logins were refused), `failing`, `first_sync` (none has ended yet) or `sending_paused`; the
    error is None where there was none.
    """

    state: str
    protocol: str
    provider: str
    error_code: str | None
    accounts: int


class Late(NamedTuple):
    """How many accounts are due for longer than so many seconds."""

    seconds: float
    accounts: int


class Watched(NamedTuple):
    """How many accounts are in this state of being watched: `connected`, `connecting`, `waiting` or `refused`."""

    state: str
    accounts: int


class Outbox(NamedTuple):
    """How many messages of the outbox are in this state, and how many seconds ago the oldest was asked for."""

    state: str
    messages: int
    oldest_seconds: float


class DeadLetters(NamedTuple):
    """How many tasks of this name failed for good, and were queued again since or not."""

    task_name: str
    is_retried: bool
    letters: int


class QueuedTasks(NamedTuple):
    """How many tasks queued in SQL beat has not published yet, or could not (aside), and for how many seconds the
    oldest has been waiting."""

    is_aside: bool
    tasks: int
    oldest_seconds: float


class Counts(NamedTuple):
    """What is counted. `accounts_estimate` is PostgreSQL's estimate of how many accounts there are. `connections` are
    those of all programs to all databases of the server, which takes `connections_max`.
    """

    accounts_estimate: int
    accounts: list[Accounts]
    late: list[Late]
    watchers: int
    watched: list[Watched]
    outbox: list[Outbox]
    dead_letters: list[DeadLetters]
    webhooks: WebhookCount
    connections: int
    connections_max: int
    queued_tasks: Sequence[QueuedTasks] = ()


def count() -> Counts:
    """Count. Raises StorageUnavailableError, and sqlalchemy.exc.DBAPIError."""
    with patiently() as connection:
        connections, connections_max = connection.execute(_CONNECTIONS).one()
        return Counts(
            connections=connections,
            connections_max=connections_max,
            accounts_estimate=connection.execute(text("SELECT estimate_accounts()")).scalar_one(),
            accounts=[Accounts._make(row) for row in connection.execute(text("SELECT * FROM count_accounts()"))],
            late=[Late._make(row) for row in connection.execute(text("SELECT * FROM count_late_accounts()"))],
            watchers=connection.execute(text("SELECT count(*) FROM count_watches()")).scalar_one(),
            watched=[
                Watched._make(row) for row in connection.execute(text("SELECT * FROM count_watched_accounts()"))
            ],
            outbox=[Outbox._make(row) for row in connection.execute(text("SELECT * FROM count_outbox()"))],
            webhooks=read_webhook_count(connection),
            dead_letters=[
                DeadLetters._make(row) for row in connection.execute(text("SELECT * FROM count_dead_letters()"))
            ],
            queued_tasks=[
                QueuedTasks._make(row) for row in connection.execute(text("SELECT * FROM count_queued_tasks()"))
            ],
        )


@contextmanager
def patiently() -> Iterator[Connection]:
    """A transaction without a tenant whose statements PostgreSQL soon gives up."""
    with unbound_transaction() as connection:
        connection.execute(_PATIENCE)
        yield connection
