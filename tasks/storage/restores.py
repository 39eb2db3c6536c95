"""A restored database: what PostgreSQL does about the time that the restore took back (docs/decisions/0050)."""

from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import text

from tasks.storage.session import tenant_transaction, unbound_transaction

_SETTLE = text("SELECT is_new, is_finished, restored_to, found FROM settle_restore(:name, :moment)")
_FIND = text("SELECT false, finished_at IS NOT NULL, restored_to, found FROM database_restore WHERE name = :name")
_FINISH = text("SELECT finish_restore(:name)")
# A restore begins a new timeline, whose number is the first part of the name of a file of WAL.
_TIMELINE = text("SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8), pg_last_xact_replay_timestamp()")
_KNOWS_KEY = text(
    """
    SELECT EXISTS (
      SELECT FROM outbox_message WHERE tenant_id = :tenant_id AND email_client_id = :account_id AND key = :key
    )
    """
)
_KNOWS_ID = text("SELECT EXISTS (SELECT FROM outbox_message WHERE tenant_id = :tenant_id AND id = :id)")


class Settled(NamedTuple):
    """What is known of a restore.

    `found` counts messages: `searched` are looked for in the Sent folder, `undecided` wait for a person, `copies` are
    still to be filed, `failed` had failed; `queued_in_sql` are tasks that send.
    """

    is_new: bool
    is_finished: bool
    restored_to: datetime
    found: dict[str, Any]


def timeline() -> tuple[str, datetime | None]:
    """The timeline of the database, and when the last transaction was committed that it was restored with; None where
    PostgreSQL has been started anew since, or was never restored."""
    with unbound_transaction() as connection:
        number, moment = connection.execute(_TIMELINE).one()
        return f"timeline-{int(number, 16)}", moment


def settle(name: str, moment: datetime) -> Settled:
    """Let PostgreSQL know of the restore of this name to that moment, once; a later call only says what is known.

    From then on no mail is sent that may have been sent since that moment, and no position of an event from the time
    that was taken back is accepted.
    """
    with unbound_transaction() as connection:
        return Settled._make(connection.execute(_SETTLE, {"name": name, "moment": moment}).one())


def find(name: str) -> Settled | None:
    """What is known of the restore of this name; None where nothing has been done about it."""
    with unbound_transaction() as connection:
        row = connection.execute(_FIND, {"name": name}).one_or_none()
        return None if row is None else Settled._make(row)


def finish(name: str) -> None:
    """Note that all is dealt with."""
    with unbound_transaction() as connection:
        connection.execute(_FINISH, {"name": name})


def knows_key(tenant_id: str, account_id: str, key: str) -> bool:
    """Whether the outbox has a message of this key."""
    with tenant_transaction(tenant_id) as connection:
        values = {"tenant_id": tenant_id, "account_id": account_id, "key": key}
        return bool(connection.execute(_KNOWS_KEY, values).scalar_one())


def knows_id(tenant_id: str, outbox_id: str) -> bool:
    """Whether the outbox has the message with this id."""
    with tenant_transaction(tenant_id) as connection:
        return bool(connection.execute(_KNOWS_ID, {"tenant_id": tenant_id, "id": outbox_id}).scalar_one())
