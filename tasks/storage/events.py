"""Events tell the application of each change: they are written in the transaction of the change, and read in an order
in which none is ever missed (docs/decisions/0042; docs/application.md for readers).

Statements that change many rows write the events of those rows themselves: `INSERT_EVENTS` begins the part that does.
A test (tests/contract/test_events.py) finds every statement that changes what events tell of.

Until the first sync of an account is done, nothing is told of its messages and folders (`Account.has_synced`): the
event account.synced then stands for all of them.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import psycopg2.errors
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from tasks.errors import NotFoundError, PermanentError
from tasks.storage.session import tenant_transaction, unbound_transaction
from tasks.storage.states import EventType

# The channel of LISTEN: a notification says that events were written, and nothing of them.
CHANNEL = "metabuilder_event"

INSERT_EVENTS = "INSERT INTO event (tenant_id, email_client_id, type, data)"

_TELL = text(
    f"{INSERT_EVENTS} SELECT :tenant_id, :account_id, :type, data FROM unnest(CAST(:data AS jsonb[])) AS told (data)"
)
_TELL_OF_NEW_MESSAGES = text(
    f"""
    {INSERT_EVENTS}
    SELECT :tenant_id, :account_id, 'message.created',
           jsonb_build_object('email_message_id', told.id, 'folder_id', CAST(:folder_id AS text))
    FROM unnest(CAST(:ids AS text[])) AS told (id)
    """
)
_AFTER = text('SELECT "position", id, type, email_client_id, created_at, data FROM events_after(:after, :limit)')
_NOW = text("SELECT event_position_now()")
_HELD_BACK = text("SELECT events_held_back()")
_FIND = text(
    """
    SELECT transaction_id || '-' || number, id, type, email_client_id, created_at, data FROM event
    WHERE tenant_id = :tenant_id AND id = :id
    """
)
_NEWEST = text(
    """
    SELECT transaction_id || '-' || number, id, type, email_client_id, created_at, data FROM event
    WHERE tenant_id = :tenant_id AND (CAST(:types AS text[]) = '{}' OR type = ANY(CAST(:types AS text[])))
      AND (CAST(:account_id AS text) IS NULL OR email_client_id = :account_id)
    ORDER BY transaction_id DESC, number DESC LIMIT :limit
    """
)
_EMPTY = text("SELECT empty_old_event_slots(:days)")


class EventPositionError(PermanentError):
    """No events can be read after this position."""

    code = "event_position"


class Event(NamedTuple):
    """An event. A reader goes on after the `position` of the last event that it has dealt with."""

    position: str
    id: str
    type: str
    email_client_id: str
    created_at: datetime
    data: dict[str, Any]


def tell(
    connection: Connection, tenant_id: str, account_id: str, kind: EventType, *changes: Mapping[str, object]
) -> None:
    """Write an event for each of `changes`, in the caller's transaction."""
    if changes:
        key = {"tenant_id": tenant_id, "account_id": account_id}
        connection.execute(_TELL, {**key, "type": kind.value, "data": [json.dumps(change) for change in changes]})


def tell_of_new_messages(
    connection: Connection, tenant_id: str, account_id: str, folder_id: str, ids: Sequence[str]
) -> None:
    """Write an event for each of these new messages of a folder, in the caller's transaction."""
    if ids:
        values = {"tenant_id": tenant_id, "account_id": account_id, "folder_id": folder_id, "ids": list(ids)}
        connection.execute(_TELL_OF_NEW_MESSAGES, values)


def events_after(tenant_id: str, position: str, limit: int) -> list[Event]:
    """The tenant's next events after that position, in order; after "", from the oldest that is kept.

    An event is given once no transaction can commit any more whose events come before it. Raises EventPositionError
    for a position of which it is not known any more what comes after it.
    """
    try:
        with tenant_transaction(tenant_id) as connection:
            return [Event._make(row) for row in connection.execute(_AFTER, {"after": position, "limit": limit})]
    except DBAPIError as error:
        refused = (psycopg2.errors.InvalidParameterValue, psycopg2.errors.ObjectNotInPrerequisiteState)
        if isinstance(error.orig, refused):
            raise EventPositionError(str(error.orig).removeprefix("events_after: ")) from None
        raise


def newest_events(tenant_id: str, types: Sequence[str], account_id: str | None, limit: int) -> list[Event]:
    """The tenant's newest events of these types (none: of all) and of this account, the oldest of them first; also
    those that `events_after` does not give yet."""
    values = {"tenant_id": tenant_id, "types": list(types), "account_id": account_id, "limit": limit}
    with tenant_transaction(tenant_id) as connection:
        return [Event._make(row) for row in connection.execute(_NEWEST, values)][::-1]


def position_now(tenant_id: str) -> str:
    """The position after which come all events of transactions that are still to commit."""
    with tenant_transaction(tenant_id) as connection:
        return str(connection.execute(_NOW).scalar_one())


def number_held_back(tenant_id: str) -> int:
    """How many events `events_after` does not give yet, because an older transaction is still open."""
    with tenant_transaction(tenant_id) as connection:
        return int(connection.execute(_HELD_BACK).scalar_one())


def find_event(tenant_id: str, event_id: str) -> Event:
    """The tenant's event with this id. Raises NotFoundError."""
    with tenant_transaction(tenant_id) as connection:
        row = connection.execute(_FIND, {"tenant_id": tenant_id, "id": event_id}).one_or_none()
    if row is None:
        raise NotFoundError(f"event {event_id}")
    return Event._make(row)


def delete_old_events(retention_days: int) -> int:
    """Delete the events of all tenants of days that ended more than `retention_days` ago. Returns how many."""
    with unbound_transaction() as connection:
        return int(connection.execute(_EMPTY, {"days": retention_days}).scalar_one())
