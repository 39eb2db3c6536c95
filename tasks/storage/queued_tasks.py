"""Tasks that the application queued in its own transaction (`queue_task` in SQL), until beat has published them."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, text

from tasks.storage.session import unbound_transaction

# Notified by each transaction that queued a task.
CHANNEL = "metabuilder_queued_task"
# A beat that stands still with rows in its hand loses them after this time, and others publish them.
CLAIM_SECONDS = 10
# When a row that could not be published is tried again: a release that is deployed meanwhile may know its task.
_RETRY_SECONDS = 3600
_MAX_ERROR_LENGTH = 1000

_BOUND = text(f"SET LOCAL idle_in_transaction_session_timeout = '{CLAIM_SECONDS}s'")
_CLAIM = text("SELECT tenant_id, id, name, arguments FROM claim_queued_tasks(:max_tasks, :max_bytes)")
_DELETE = text("SELECT delete_queued_tasks(CAST(:tenant_ids AS text[]), CAST(:task_ids AS text[]))")
_RETRY = text("SELECT retry_queued_tasks(CAST(:tenant_ids AS text[]), CAST(:task_ids AS text[]))")
_SET_ASIDE = text("SELECT set_aside_queued_task(:of_tenant, :of_task, :words, :retry_seconds)")
_LIST = text("SELECT tenant_id, id, user_id, name, queued_at, error FROM list_queued_tasks(:max_tasks)")


class QueuedTask(NamedTuple):
    """A row: the task's function, and its arguments by name."""

    tenant_id: str
    id: str
    name: str
    arguments: dict[str, Any]


class ListedTask(NamedTuple):
    """A row as an operator sees it, without its arguments. It has an error if it could not be published."""

    tenant_id: str
    id: str
    user_id: str
    name: str
    queued_at: datetime
    error: str | None


class Claim:
    """Rows that nobody else takes as long as the transaction lasts, and what becomes of them when it commits."""

    def __init__(self, connection: Connection, tasks: Sequence[QueuedTask]) -> None:
        self._connection = connection
        self.tasks = tasks

    def delete(self, tasks: Sequence[QueuedTask]) -> None:
        """Delete these rows: their tasks are published."""
        if tasks:
            ids = {"tenant_ids": [task.tenant_id for task in tasks], "task_ids": [task.id for task in tasks]}
            self._connection.execute(_DELETE, ids)

    def set_aside(self, task: QueuedTask, error: str) -> None:
        """Keep this row with the error, for an operator to see and for a later try."""
        self._connection.execute(
            _SET_ASIDE,
            {
                "of_tenant": task.tenant_id,
                "of_task": task.id,
                "words": error[:_MAX_ERROR_LENGTH],
                "retry_seconds": _RETRY_SECONDS,
            },
        )


@contextmanager
def claimed(max_tasks: int, max_bytes: int) -> Iterator[Claim]:
    """Claim rows that are due, the oldest first, until the end of the block. Raises StorageUnavailableError."""
    with unbound_transaction() as connection:
        connection.execute(_BOUND)
        rows = connection.execute(_CLAIM, {"max_tasks": max_tasks, "max_bytes": max_bytes})
        yield Claim(
            connection,
            [QueuedTask(tenant, id_, name, json.loads(arguments)) for tenant, id_, name, arguments in rows],
        )


def list_queued_tasks(max_tasks: int) -> list[ListedTask]:
    """Rows of all tenants: those that could not be published, then the others, the oldest first."""
    with unbound_transaction() as connection:
        return [ListedTask._make(row) for row in connection.execute(_LIST, {"max_tasks": max_tasks})]


def retry(tenant_id: str, task_id: str) -> bool:
    """Have beat try a row again that it could not publish. Returns whether there is one."""
    with unbound_transaction() as connection:
        return bool(connection.execute(_RETRY, {"tenant_ids": [tenant_id], "task_ids": [task_id]}).scalar_one())


def drop(tenant_id: str, task_id: str) -> bool:
    """Delete a row, so that its task never runs. Returns whether there was one."""
    with unbound_transaction() as connection:
        return bool(connection.execute(_DELETE, {"tenant_ids": [tenant_id], "task_ids": [task_id]}).scalar_one())
