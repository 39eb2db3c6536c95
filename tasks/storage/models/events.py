"""The tables of events, which tell the application of changes."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, PrimaryKeyConstraint, SmallInteger, text
from sqlalchemy.orm import Mapped, mapped_column

from tasks.storage.models.base import NOW, Base, one_of
from tasks.storage.states import EventType

# The table has a partition for each slot: the day (UTC) modulo this number.
EVENT_SLOTS = 16


class Event(Base):
    """A change, written in the transaction of the change (docs/decisions/0042).

    Its position is `transaction_id` and `number`, the order within the transaction. Rows are never changed, and go
    with all others of their day, when the partition of its slot is emptied.
    """

    __tablename__ = "event"
    tenant_id: Mapped[str]
    transaction_id: Mapped[int] = mapped_column(
        BigInteger, server_default=text("(((pg_current_xact_id())::text)::bigint + event_offset())")
    )
    number: Mapped[int] = mapped_column(
        BigInteger, autoincrement=False, server_default=text("nextval('event_number_seq')")
    )
    slot: Mapped[int] = mapped_column(
        SmallInteger,
        server_default=text(f"(floor((EXTRACT(epoch FROM now()) / 86400)) % {EVENT_SLOTS})::smallint"),
    )
    id: Mapped[str] = mapped_column(server_default=text("event_id()"))
    type: Mapped[str]
    email_client_id: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    data: Mapped[dict[str, Any]]
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "transaction_id", "number", "slot"),
        CheckConstraint("tenant_id <> ''", "tenant_id"),
        CheckConstraint(one_of("type", EventType), "type"),
        {"postgresql_partition_by": "LIST (slot)"},
    )


class EventDropped(Base):
    """The position of a tenant's newest event that is kept no more: a reader who has not got as far is told so."""

    __tablename__ = "event_dropped"
    tenant_id: Mapped[str]
    transaction_id: Mapped[int] = mapped_column(BigInteger)
    number: Mapped[int] = mapped_column(BigInteger)
    __table_args__ = (PrimaryKeyConstraint("tenant_id"), CheckConstraint("tenant_id <> ''", "tenant_id"))
