"""The table of the restores of this database."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, text
from sqlalchemy.orm import Mapped, mapped_column

from tasks.storage.models.base import NOW, Base


class DatabaseRestore(Base):
    """A restore of this database to an earlier moment (docs/decisions/0050).

    It belongs to no tenant, and everybody may read it. `ended_at` is the newest transaction of an event from before
    the restore, and `began_at` the first from after it: a position of an event between the two is of the time that
    was taken back. `found` counts what may have been done in that time; `finished_at` is set once the queues in Redis
    are dealt with as well.
    """

    __tablename__ = "database_restore"
    name: Mapped[str] = mapped_column(primary_key=True)
    restored_to: Mapped[datetime]
    settled_at: Mapped[datetime] = mapped_column(server_default=NOW)
    finished_at: Mapped[datetime | None]
    ended_at: Mapped[int] = mapped_column(BigInteger)
    began_at: Mapped[int] = mapped_column(BigInteger)
    found: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
