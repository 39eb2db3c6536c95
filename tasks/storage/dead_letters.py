"""Dead letters: tasks that failed for good, kept until a retry succeeds or a person drops them.

The same work is one row, however often it failed. Arguments are shown redacted; the complete arguments, which a retry
needs, are encrypted like a password, in `credential`.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import orjson
from sqlalchemy import ColumnElement, delete, func, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert

from tasks.errors import NotFoundError
from tasks.storage.credentials import TASK_ARGUMENTS, add_credential, read_credential, remove_credential
from tasks.storage.ids import new_id
from tasks.storage.models import DeadLetter
from tasks.storage.session import tenant_transaction, unbound_transaction

# The tenant of tasks that belong to no tenant, such as `periodic_sync` and the cleanup.
NOBODY = "metabuilder:system"


class Failure(NamedTuple):
    """A task that failed for good."""

    task_key: str
    task_name: str
    task_id: str
    user_id: str | None
    shown_arguments: dict[str, Any]
    error_code: str
    error: str
    traceback: str
    attempts: int


class Letter(NamedTuple):
    """A row of dead_letter."""

    tenant_id: str
    id: str
    task_key: str
    task_name: str
    task_id: str
    user_id: str | None
    shown_arguments: dict[str, Any]
    credential_id: str
    error_code: str
    error: str
    traceback: str
    attempts: int
    first_failed_at: datetime
    last_failed_at: datetime
    retried_at: datetime | None


class Summary(NamedTuple):
    """What the list of the dead letters of all tenants shows of each."""

    tenant_id: str
    id: str
    task_name: str
    error_code: str
    error: str
    attempts: int
    first_failed_at: datetime
    last_failed_at: datetime
    retried_at: datetime | None


_TABLE = DeadLetter.__table__
_LIST = text(f"SELECT {', '.join(Summary._fields)} FROM list_dead_letters() ORDER BY last_failed_at")


def bury(tenant_id: str, failure: Failure, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Store a dead letter, or update the dead letter of the same work."""
    with tenant_transaction(tenant_id) as connection:
        known = connection.execute(
            select(DeadLetter.id)
            .where(DeadLetter.tenant_id == tenant_id, DeadLetter.task_key == failure.task_key)
            .with_for_update()
        ).one_or_none()
        if known is not None:
            changed = {**failure._asdict(), "attempts": DeadLetter.attempts + failure.attempts}
            connection.execute(
                update(DeadLetter)
                .where(DeadLetter.tenant_id == tenant_id, DeadLetter.id == known.id)
                .values(**changed, last_failed_at=func.clock_timestamp(), retried_at=None)
            )
            return
        arguments = orjson.dumps({"args": list(args), "kwargs": dict(kwargs)}).decode()
        sealed = add_credential(connection, tenant_id, arguments, kind=TASK_ARGUMENTS)
        added = insert(DeadLetter).values(tenant_id=tenant_id, id=new_id(), credential_id=sealed, **failure._asdict())
        # If two failures of the same work come at once, the second changes nothing that matters.
        if not connection.execute(added.on_conflict_do_nothing()).rowcount:
            remove_credential(connection, tenant_id, sealed)


def list_letters() -> list[Summary]:
    """The dead letters of all tenants, the latest failures last."""
    with unbound_transaction() as connection:
        return [Summary._make(row) for row in connection.execute(_LIST)]


def get_letter(tenant_id: str, letter_id: str) -> Letter:
    """One dead letter. Raises NotFoundError."""
    columns = [_TABLE.c[name] for name in Letter._fields]
    with tenant_transaction(tenant_id) as connection:
        row = connection.execute(
            select(*columns).where(DeadLetter.tenant_id == tenant_id, DeadLetter.id == letter_id)
        ).one_or_none()
    if row is None:
        raise NotFoundError(f"dead letter {letter_id}")
    return Letter._make(row)


def open_arguments(letter: Letter) -> tuple[list[Any], dict[str, Any]]:
    """The task's arguments as they were. Raises CredentialUnreadableError where no key opens them."""
    with tenant_transaction(letter.tenant_id) as connection:
        opened = orjson.loads(read_credential(connection, letter.tenant_id, letter.credential_id))
    return opened["args"], opened["kwargs"]


def mark_retried(letter: Letter) -> None:
    """Note that the task has been queued again."""
    with tenant_transaction(letter.tenant_id) as connection:
        connection.execute(update(DeadLetter).where(*_is(letter)).values(retried_at=func.clock_timestamp()))


def drop_letter(letter: Letter) -> None:
    """Delete a dead letter with its arguments."""
    with tenant_transaction(letter.tenant_id) as connection:
        connection.execute(delete(DeadLetter).where(*_is(letter)))
        remove_credential(connection, letter.tenant_id, letter.credential_id)


def clear(tenant_id: str, task_key: str, task_id: str) -> None:
    """Delete the dead letter of work that has now succeeded.

    Also looks for the task's id, because earlier releases stored some dead letters under another key.
    """
    with tenant_transaction(tenant_id) as connection:
        cleared = connection.scalars(
            delete(DeadLetter)
            .where(
                DeadLetter.tenant_id == tenant_id,
                or_(DeadLetter.task_key == task_key, DeadLetter.task_id == task_id),
            )
            .returning(DeadLetter.credential_id)
        ).all()
        for sealed in cleared:
            remove_credential(connection, tenant_id, sealed)


def _is(letter: Letter) -> tuple[ColumnElement[bool], ...]:
    return DeadLetter.tenant_id == letter.tenant_id, DeadLetter.id == letter.id
