"""Rows of outbox_message. Only the run that holds a row changes it (see engine/send/outbox.py)."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple, Self

from sqlalchemy import ColumnClause, Connection, CursorResult, Double, TextualSelect, column, func, select, text

from tasks.errors import NotFoundError
from tasks.storage.events import INSERT_EVENTS
from tasks.storage.ids import new_id
from tasks.storage.models import EmailClient, OutboxMessage
from tasks.storage.session import tenant_transaction
from tasks.storage.states import EventType, OutboxState, RecipientState

# The states in which a message may wait for its next try: of the message (queued), or, in the other two, of looking
# for it in the Sent folder (unknown) or filing its copy there (accepted).
WAITING_STATES = (OutboxState.QUEUED, OutboxState.UNKNOWN, OutboxState.ACCEPTED)


# What the application is told of the states, when a message enters one that is told as another than the one before:
# of a message that is sent, when the server has it, and not again when its copy is filed.
TOLD_AS = {
    OutboxState.ACCEPTED: EventType.MESSAGE_SENT,
    OutboxState.SENT: EventType.MESSAGE_SENT,
    OutboxState.FAILED: EventType.MESSAGE_FAILED,
    OutboxState.UNKNOWN: EventType.MESSAGE_UNKNOWN,
}


class Recipient(NamedTuple):
    """A recipient of a message.

    `state` is pending, offered (the server took the address, and perhaps the message), accepted or refused. `reply`
    is the server's last answer about this recipient.
    """

    address: str
    state: RecipientState = RecipientState.PENDING
    reply: str = ""


def read_recipients(column: Iterable[Mapping[str, str]]) -> tuple[Recipient, ...]:
    """The recipients that the column `recipients` of outbox_message keeps as JSON."""
    return tuple(Recipient(kept["address"], RecipientState(kept["state"]), kept["reply"]) for kept in column)


class NewOutgoing(NamedTuple):
    """A new message for the outbox, held by the run that made it."""

    email_client_id: str
    key: str
    digest: str
    content_digest: str
    message_id: str
    sender: str
    recipients: tuple[Recipient, ...]
    raw: bytes
    created_at: datetime
    owner: str
    task: Mapping[str, Any] | None = None


class Outgoing(NamedTuple):
    """A row of outbox_message without its bytes. `claimed_seconds`, `data_seconds` and `asked_seconds` are ages.
    `seconds_left` is the time until the next try, or None unless the message waits for that in the outbox."""

    tenant_id: str
    id: str
    email_client_id: str
    digest: str
    content_digest: str | None
    state: str
    message_id: str
    sender: str
    recipients: tuple[Recipient, ...]
    size: int
    attempts: int
    owner: str | None
    accepted_at: datetime | None
    last_error_code: str | None
    last_error: str | None
    created_at: datetime
    next_try_at: datetime | None
    asked_at: datetime
    claimed_seconds: float
    data_seconds: float | None
    asked_seconds: float
    seconds_left: float | None

    @classmethod
    def of_row(cls, row: Any) -> Self:
        """Make this value from a row with the columns `_COLUMNS`."""
        return cls._make(row)._replace(recipients=read_recipients(row.recipients))

    def addresses(self, *states: RecipientState) -> list[str]:
        """The addresses whose state is one of these."""
        return [recipient.address for recipient in self.recipients if recipient.state in states]

    @property
    def waits(self) -> bool:
        """Whether the message waits: no run is at work on it, and its next try is not due."""
        return self.state in WAITING_STATES and (self.seconds_left or 0) > 0


class OutboxRow(NamedTuple):
    """What lists show of a message in the outbox."""

    id: str
    tenant: str
    account: str
    user_id: str
    state: str
    recipients: tuple[Recipient, ...]
    attempts: int
    last_error_code: str | None
    last_error: str | None
    created_at: datetime
    next_try_at: datetime | None
    seconds_left: float | None
    waiting_seconds: float
    is_late: bool


_OVER = (OutboxState.SENT, OutboxState.FAILED)
# Ages are by PostgreSQL's clock, which all workers share.
_COLUMNS = """
    tenant_id, id, email_client_id, digest, content_digest, state, message_id, sender, recipients, size, attempts,
    owner, accepted_at, last_error_code, last_error, created_at, next_try_at, asked_at,
    extract(epoch FROM clock_timestamp() - claimed_at)::float, extract(epoch FROM clock_timestamp() - data_at)::float,
    extract(epoch FROM clock_timestamp() - asked_at)::float,
    CASE WHEN dispatched_at IS NULL THEN extract(epoch FROM next_try_at - clock_timestamp())::float END
"""
# The result columns are declared, so that SQLAlchemy works out the form of a row once and not for each row.
_RESULT: list[ColumnClause[Any]] = [column(name) for name in Outgoing._fields]

_ADD = text(
    f"""
    INSERT INTO outbox_message (tenant_id, id, email_client_id, key, digest, content_digest, state, message_id,
                                sender, recipients, raw, size, attempts, owner, claimed_at, created_at, task,
                                next_try_at, dispatched_at)
    VALUES (:tenant_id, :id, :email_client_id, :key, :digest, :content_digest, 'sending', :message_id, :sender,
            CAST(:recipients AS jsonb), :raw, :size, 1, :owner, clock_timestamp(), :created_at,
            CAST(:task AS jsonb), clock_timestamp(), clock_timestamp())
    ON CONFLICT DO NOTHING
    RETURNING {_COLUMNS}
    """
).columns(*_RESULT)
_FIND = text(
    f"""
    SELECT {_COLUMNS} FROM outbox_message
    WHERE tenant_id = :tenant_id AND email_client_id = :account_id AND key = :key FOR UPDATE
    """
).columns(*_RESULT)
_LOCK = text(f"SELECT {_COLUMNS} FROM outbox_message WHERE tenant_id = :tenant_id AND id = :id FOR UPDATE").columns(
    *_RESULT
)
_RAW = text("SELECT raw FROM outbox_message WHERE tenant_id = :tenant_id AND id = :id")


class In(NamedTuple):
    """A time that is so many seconds after the change, by PostgreSQL's clock."""

    seconds: float


NOW = In(0)


def add_outgoing(connection: Connection, tenant_id: str, new: NewOutgoing) -> Outgoing | None:
    """Put a message into the outbox, in state sending; None where another run with the same key was faster."""
    values = {**new._asdict(), "tenant_id": tenant_id, "id": new_id(), "size": len(new.raw)}
    values |= {"recipients": _as_json(new.recipients), "task": _task_as_json(new.task)}
    return _one(connection.execute(_ADD, values))


def find_outgoing(connection: Connection, tenant_id: str, account_id: str, key: str) -> Outgoing | None:
    """The message of that key, locked until the transaction ends."""
    return _one(connection.execute(_FIND, {"tenant_id": tenant_id, "account_id": account_id, "key": key}))


def lock_outgoing(connection: Connection, tenant_id: str, outbox_id: str) -> Outgoing:
    """The message as it is now, locked until the transaction ends. Raises NotFoundError."""
    found = _one(connection.execute(_LOCK, {"tenant_id": tenant_id, "id": outbox_id}))
    if found is None:
        raise NotFoundError(f"outbox message {outbox_id}")
    return found


def read_raw(tenant_id: str, outbox_id: str) -> bytes:
    """The bytes of a message that is not sent yet. Raises NotFoundError."""
    with tenant_transaction(tenant_id) as connection:
        raw = connection.scalar(_RAW, {"tenant_id": tenant_id, "id": outbox_id})
    if raw is None:
        raise NotFoundError(f"the content of outbox message {outbox_id}")
    return bytes(raw)


def change_outgoing(
    connection: Connection, outgoing: Outgoing, changes: Mapping[str, Any], expected: Mapping[str, Any] | None = None
) -> Outgoing | None:
    """Set columns (NOW: this moment) if the `expected` columns have these values.

    Returns the new row, or None if they do not.
    """
    expected = expected or {}
    values: dict[str, Any] = {
        name: value.seconds if isinstance(value, In) else value for name, value in changes.items()
    }
    if "recipients" in values:
        values["recipients"] = _as_json(values["recipients"])
    if "task" in values:
        values["task"] = _task_as_json(values["task"])
    moments = tuple(name for name, value in changes.items() if isinstance(value, In))
    statement = _change_statement(tuple(values), moments, tuple(expected))
    key = {"tenant_id": outgoing.tenant_id, "id": outgoing.id}
    return _one(
        connection.execute(statement, {**values, **key, **{f"old_{name}": old for name, old in expected.items()}})
    )


@lru_cache(maxsize=64)
def _change_statement(names: tuple[str, ...], moments: tuple[str, ...], expected: tuple[str, ...]) -> TextualSelect:
    """The SQL for a change. Names of columns go into the SQL, so they must come from this program only."""
    written = {name: f"CAST(:{name} AS jsonb)" for name in ("recipients", "task")}
    written |= {name: f"clock_timestamp() + make_interval(secs => :{name})" for name in moments}
    settings = [f"{name} = {written.get(name, f':{name}')}" for name in names] + ["updated_at = clock_timestamp()"]
    conditions = "".join(f" AND {name} IS NOT DISTINCT FROM :old_{name}" for name in expected)
    changing = f"UPDATE outbox_message SET {', '.join(settings)}"
    if "state" not in names:
        return text(f"{changing} WHERE tenant_id = :tenant_id AND id = :id{conditions} RETURNING {_COLUMNS}").columns(
            *_RESULT
        )
    # The row is locked before its state is read, so that the second of two changes is compared with the first.
    return text(
        f"""
        WITH changed AS (
          {changing}
          FROM (
            SELECT tenant_id AS of_tenant, id AS of_id, state AS old_state FROM outbox_message
            WHERE tenant_id = :tenant_id AND id = :id FOR UPDATE
          ) AS old
          WHERE tenant_id = of_tenant AND id = of_id{conditions}
          RETURNING outbox_message.*, old_state
        ), told AS (
          {INSERT_EVENTS}
          SELECT tenant_id, email_client_id, {_told_as("state")}, jsonb_strip_nulls(jsonb_build_object(
            'outbox_id', id, 'message_id', message_id, 'error_code', last_error_code,
            'idempotency_key', CASE WHEN starts_with(key, 'key:') THEN substr(key, 5) END,
            'task_id', CASE WHEN starts_with(key, 'task:') THEN substr(key, 6) END,
            'recipients_accepted', {_count_in(RecipientState.ACCEPTED)},
            'recipients_refused', {_count_in(RecipientState.REFUSED)}
          ))
          FROM changed WHERE {_told_as("state")} IS DISTINCT FROM {_told_as("old_state")}
            AND {_told_as("state")} IS NOT NULL
        )
        SELECT {_COLUMNS} FROM changed
        """
    ).columns(*_RESULT)


def _count_in(state: RecipientState) -> str:
    """The SQL for the number of recipients in a state."""
    return f"""jsonb_array_length(jsonb_path_query_array(recipients, '$[*] ? (@.state == "{state}")'))"""


def _told_as(state: str) -> str:
    """The SQL for the type of the event that tells of a state, or NULL."""
    cases = " ".join(f"WHEN '{told}' THEN '{kind}'" for told, kind in TOLD_AS.items())
    return f"CASE {state} {cases} END"


def list_outgoing(tenant_id: str, states: Sequence[str], limit: int, late_seconds: int) -> list[OutboxRow]:
    """Messages of all accounts in one of these states, the newest first.

    A message that has waited for `late_seconds` is late.
    """
    waiting = func.extract("epoch", func.now() - OutboxMessage.asked_at).cast(Double)
    columns = (
        OutboxMessage.id, OutboxMessage.tenant_id, EmailClient.account_name, EmailClient.user_id, OutboxMessage.state,
        OutboxMessage.recipients, OutboxMessage.attempts, OutboxMessage.last_error_code, OutboxMessage.last_error,
        OutboxMessage.created_at, OutboxMessage.next_try_at,
        func.extract("epoch", OutboxMessage.next_try_at - func.now()).cast(Double), waiting,
        (waiting >= late_seconds) & OutboxMessage.state.not_in(_OVER),
    )  # fmt: skip
    with tenant_transaction(tenant_id) as connection:
        rows = connection.execute(
            select(*columns)
            .join(
                EmailClient,
                (EmailClient.tenant_id == OutboxMessage.tenant_id)
                & (EmailClient.id == OutboxMessage.email_client_id),
            )
            .where(OutboxMessage.tenant_id == tenant_id, OutboxMessage.state.in_(states))
            .order_by(OutboxMessage.created_at.desc())
            .limit(limit)
        )
        return [OutboxRow._make(row)._replace(recipients=read_recipients(row.recipients)) for row in rows]


def _one(result: CursorResult[Any]) -> Outgoing | None:
    row = result.one_or_none()
    return None if row is None else Outgoing.of_row(row)


def _task_as_json(task: Mapping[str, Any] | None) -> str | None:
    return None if task is None else json.dumps(task)


def _as_json(recipients: Sequence[Recipient]) -> str:
    return json.dumps([recipient._asdict() for recipient in recipients])
