"""The table of the outbox."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKeyConstraint,
    Index,
    PrimaryKeyConstraint,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from tasks.storage.models.base import NOW, ZERO, Base, one_of
from tasks.storage.states import OutboxState


class OutboxMessage(Base):
    """A message on its way out. engine/send/outbox.py explains its states and what changes them.

    Two calls with the same `key` are one message: the key is `key:` and the caller's idempotency key, or `task:` and
    the id of the task. `digest` is the SHA-256 of the draft as the caller wrote it, `content_digest` that of its
    content, however written. `raw` are the bytes to send, kept until the message is sent. `recipients` are {address,
    state, reply}. `owner` is the run that has held the row since `claimed_at`. `data_at` is when that run was about
    to send the end of the data. `asked_at` is the time from which SMTP_MAX_AGE counts: for the message, and once it
    is accepted, for its Sent copy. The next try is at `next_try_at`. `dispatched_at` is when the task for that try
    was queued, NULL if it is still to be queued. `task` has the id of that task and the tasks that are to follow it.
    """

    __tablename__ = "outbox_message"
    tenant_id: Mapped[str]
    id: Mapped[str]
    email_client_id: Mapped[str]
    key: Mapped[str]
    digest: Mapped[str]
    content_digest: Mapped[str | None]
    state: Mapped[str]
    message_id: Mapped[str]
    sender: Mapped[str]
    recipients: Mapped[list[dict[str, str]]]
    raw: Mapped[bytes | None]
    size: Mapped[int] = mapped_column(BigInteger)
    attempts: Mapped[int] = mapped_column(server_default=ZERO)
    owner: Mapped[str | None]
    claimed_at: Mapped[datetime | None]
    data_at: Mapped[datetime | None]
    accepted_at: Mapped[datetime | None]
    last_error_code: Mapped[str | None]
    last_error: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW)
    next_try_at: Mapped[datetime | None]
    dispatched_at: Mapped[datetime | None]
    asked_at: Mapped[datetime] = mapped_column(server_default=NOW)
    task: Mapped[dict[str, Any] | None]
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "id"),
        UniqueConstraint("tenant_id", "email_client_id", "key"),
        ForeignKeyConstraint(
            ["tenant_id", "email_client_id"], ["email_client.tenant_id", "email_client.id"], ondelete="CASCADE"
        ),
        CheckConstraint(one_of("state", OutboxState), "state"),
        # For the few messages that are not sent, among many that are.
        Index("outbox_message_open_idx", "tenant_id", "created_at", postgresql_where=text("state <> 'sent'")),
        Index("outbox_message_next_try_idx", "next_try_at", postgresql_where=text("state NOT IN ('sent', 'failed')")),
        Index(
            "outbox_message_waiting_idx",
            "tenant_id",
            "email_client_id",
            postgresql_where=text("dispatched_at IS NULL AND state IN ('queued', 'unknown', 'accepted')"),
        ),
    )
