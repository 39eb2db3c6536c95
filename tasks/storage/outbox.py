"""Rows of outbox_message, each moved by the one run that holds it (see engine/outbox.py)."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Self

from sqlalchemy import ColumnElement, Connection, Double, cast, func, select, update
from sqlalchemy.dialects.postgresql import insert

from tasks.errors import NotFoundError
from tasks.storage.ids import new_id
from tasks.storage.models import EmailClient, OutboxMessage
from tasks.storage.session import tenant_transaction


class Recipient(NamedTuple):
    """`state` is pending, offered (the server took the address, and the message may have followed), accepted or
    refused; `reply` is the server's last word on it."""

    address: str
    state: str = "pending"
    reply: str = ""


class NewOutgoing(NamedTuple):
    """A message as it is when it enters the outbox, already held by the run that made it."""

    email_client_id: str
    key: str
    digest: str
    message_id: str
    sender: str
    recipients: tuple[Recipient, ...]
    raw: bytes
    created_at: datetime
    owner: str


class Outgoing(NamedTuple):
    """A row of outbox_message without its bytes. `claimed_seconds` and `data_seconds` are ages."""

    tenant_id: str
    id: str
    email_client_id: str
    digest: str
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
    claimed_seconds: float
    data_seconds: float | None

    @classmethod
    def of_row(cls, row: Any) -> Self:
        """From a row of `_COLUMNS`."""
        return cls._make(row)._replace(recipients=tuple(Recipient(**recipient) for recipient in row.recipients))

    def addresses(self, *states: str) -> list[str]:
        """The addresses whose state is one of these."""
        return [recipient.address for recipient in self.recipients if recipient.state in states]


class Listed(NamedTuple):
    """What a person wants to see of an outgoing message."""

    id: str
    account: str
    user_id: str
    state: str
    recipients: tuple[Recipient, ...]
    attempts: int
    last_error: str | None
    created_at: datetime


def _age(column: Any) -> ColumnElement[float]:
    return cast(func.extract("epoch", func.clock_timestamp() - column), Double())


_COLUMNS = (
    *(OutboxMessage.__table__.c[name] for name in Outgoing._fields if name in OutboxMessage.__table__.c),
    _age(OutboxMessage.claimed_at).label("claimed_seconds"),
    _age(OutboxMessage.data_at).label("data_seconds"),
)


def add_outgoing(connection: Connection, tenant_id: str, new: NewOutgoing) -> Outgoing | None:
    """Put a message into the outbox, in state sending; None where another run with the same key was faster."""
    values: dict[str, Any] = {
        **new._asdict(),
        "recipients": _as_json(new.recipients),
        "tenant_id": tenant_id,
        "id": new_id(),
        "state": "sending",
        "size": len(new.raw),
        "attempts": 1,
        "claimed_at": func.clock_timestamp(),
    }
    row = connection.execute(
        insert(OutboxMessage).values(values).on_conflict_do_nothing().returning(*_COLUMNS)
    ).one_or_none()
    return None if row is None else Outgoing.of_row(row)


def find_outgoing(connection: Connection, tenant_id: str, account_id: str, key: str) -> Outgoing | None:
    """The message of that key, locked until the transaction ends."""
    row = connection.execute(
        select(*_COLUMNS)
        .where(
            OutboxMessage.tenant_id == tenant_id,
            OutboxMessage.email_client_id == account_id,
            OutboxMessage.key == key,
        )
        .with_for_update()
    ).one_or_none()
    return None if row is None else Outgoing.of_row(row)


def lock_outgoing(connection: Connection, tenant_id: str, outbox_id: str) -> Outgoing:
    """The message as it is now, locked until the transaction ends. Raises NotFoundError."""
    row = connection.execute(select(*_COLUMNS).where(*_is(tenant_id, outbox_id)).with_for_update()).one_or_none()
    if row is None:
        raise NotFoundError(f"outbox message {outbox_id}")
    return Outgoing.of_row(row)


def read_raw(tenant_id: str, outbox_id: str) -> bytes:
    """The bytes of a message that is not sent yet. Raises NotFoundError."""
    with tenant_transaction(tenant_id) as connection:
        raw = connection.scalar(select(OutboxMessage.raw).where(*_is(tenant_id, outbox_id)))
    if raw is None:
        raise NotFoundError(f"the content of outbox message {outbox_id}")
    return bytes(raw)


def change_outgoing(
    connection: Connection, outgoing: Outgoing, changes: Mapping[str, Any], *conditions: ColumnElement[bool]
) -> Outgoing | None:
    """Set columns while the conditions hold; the row afterwards, or None where they do not."""
    values = dict(changes)
    if "recipients" in values:
        values["recipients"] = _as_json(values["recipients"])
    row = connection.execute(
        update(OutboxMessage)
        .where(*_is(outgoing.tenant_id, outgoing.id), *conditions)
        .values(**values, updated_at=func.clock_timestamp())
        .returning(*_COLUMNS)
    ).one_or_none()
    return None if row is None else Outgoing.of_row(row)


def list_outgoing(tenant_id: str, states: Sequence[str], limit: int) -> list[Listed]:
    """Messages of all accounts in one of these states, the newest first."""
    columns = (
        OutboxMessage.id, EmailClient.account_name, EmailClient.user_id, OutboxMessage.state,
        OutboxMessage.recipients, OutboxMessage.attempts, OutboxMessage.last_error, OutboxMessage.created_at,
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
        return [
            Listed._make(row)._replace(recipients=tuple(Recipient(**found) for found in row.recipients))
            for row in rows
        ]


def _as_json(recipients: Sequence[Recipient]) -> list[dict[str, str]]:
    return [recipient._asdict() for recipient in recipients]


def _is(tenant_id: str, outbox_id: str) -> tuple[ColumnElement[bool], ...]:
    return OutboxMessage.tenant_id == tenant_id, OutboxMessage.id == outbox_id
