"""The tables of what tasks remember of their work."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKeyConstraint, Index, PrimaryKeyConstraint, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from tasks.storage.models.base import NOW, Base


class DeadLetter(Base):
    """A task that failed for good. The same work (`task_key`) has one row.

    `shown_arguments` are redacted; the complete arguments are encrypted, in the credential.
    """

    __tablename__ = "dead_letter"
    tenant_id: Mapped[str]
    id: Mapped[str]
    task_key: Mapped[str]
    task_name: Mapped[str]
    task_id: Mapped[str]
    user_id: Mapped[str | None]
    shown_arguments: Mapped[dict[str, Any]]
    credential_id: Mapped[str]
    error_code: Mapped[str]
    error: Mapped[str]
    traceback: Mapped[str]
    attempts: Mapped[int]
    first_failed_at: Mapped[datetime] = mapped_column(server_default=NOW)
    last_failed_at: Mapped[datetime] = mapped_column(server_default=NOW)
    retried_at: Mapped[datetime | None]
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "id"),
        UniqueConstraint("tenant_id", "task_key"),
        ForeignKeyConstraint(["tenant_id", "credential_id"], ["credential.tenant_id", "credential.id"]),
        CheckConstraint("tenant_id <> ''", "tenant_id"),
        Index("dead_letter_last_failed_idx", "last_failed_at"),
        Index("dead_letter_task_idx", "task_name", "retried_at"),  # to count them
    )


class Deletion(Base):
    """A message that a task is to delete.

    When the task runs again, it knows from this row that the message was the caller's.
    """

    __tablename__ = "deletion"
    tenant_id: Mapped[str]
    # Holds the same as `task_key`, filled by a trigger; only workers of the release before read and write it.
    task_id: Mapped[str]
    # The key of the task's work, as in dead_letter: another task with the same work has the same key.
    task_key: Mapped[str]
    email_message_id: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "task_id", "email_message_id"),
        CheckConstraint("tenant_id <> ''", "tenant_id"),
        Index("deletion_created_idx", "tenant_id", "created_at"),
        Index("deletion_task_key_idx", "tenant_id", "task_key"),
    )


class QueuedTask(Base):
    """A task that the application queued in its own transaction, until beat has published it.

    The application writes `tenant_id`, `name` and `arguments`, which a trigger checks. `error` says why beat could
    not publish the row, which is tried again at `next_try_at`.
    """

    __tablename__ = "queued_task"
    tenant_id: Mapped[str]
    id: Mapped[str] = mapped_column(server_default=text("(gen_random_uuid())::text"))
    name: Mapped[str]
    arguments: Mapped[dict[str, Any]]
    size: Mapped[int]
    queued_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))
    next_try_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))
    error: Mapped[str | None]
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "id"),
        CheckConstraint("tenant_id <> ''", "tenant_id"),
        Index("queued_task_next_try_idx", "next_try_at"),
    )
