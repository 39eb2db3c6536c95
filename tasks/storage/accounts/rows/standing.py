"""How an account stands: synced once, failing, paused for receiving or for sending.

`change_account` writes changes of that together with the events that tell of them."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Row, select, text, update

from tasks.storage.accounts.rows.account import Account, is_row_of
from tasks.storage.events import INSERT_EVENTS, tell
from tasks.storage.models import EmailClient
from tasks.storage.states import EventType

_TELL_OF_FIRST_SYNC = text(
    f"""
    {INSERT_EVENTS}
    SELECT :tenant_id, :account_id, 'account.synced', jsonb_build_object(
      'folders', count(*), 'messages', coalesce(sum(total_count) FILTER (WHERE NOT is_view), 0)
    )
    FROM email_folder WHERE tenant_id = :tenant_id AND email_client_id = :account_id
    """
)


class Standing(NamedTuple):
    """The columns of an account that events tell of."""

    last_sync_at: datetime | None
    failing_since: datetime | None
    paused_at: datetime | None
    smtp_paused_at: datetime | None
    last_error_code: str | None


_COLUMNS = [EmailClient.__table__.c[name] for name in Standing._fields]


def standing_of(connection: Connection, account: Account, *conditions: ColumnElement[bool]) -> Standing | None:
    """How the account stands now, with its row locked; None if it does not meet the `conditions` (any more)."""
    query = select(*_COLUMNS).where(*is_row_of(account), *conditions).with_for_update()
    row = connection.execute(query).one_or_none()
    return Standing._make(row) if row else None


def change_account(
    connection: Connection,
    account: Account,
    values: Mapping[str, Any],
    *conditions: ColumnElement[bool],
    before: Standing | None = None,
    returning: Sequence[ColumnElement[Any]] = (),
) -> Row[Any] | None:
    """Set columns of the account if it meets the `conditions`, and tell of how it stands then, compared with `before`
    (by default: with how it stood until now).

    Returns the columns in `returning`, or None if it does not meet the conditions.
    """
    # The row is locked before it is read, so that of two changes at once the second is compared with the first.
    old = (
        select(
            *(EmailClient.__table__.c[name].label(f"old_{name}") for name in ("tenant_id", "id", *Standing._fields))
        )
        .where(*is_row_of(account))
        .with_for_update()
        .subquery("old")
    )
    row = connection.execute(
        update(EmailClient)
        .where(EmailClient.tenant_id == old.c.old_tenant_id, EmailClient.id == old.c.old_id, *conditions)
        .values(**values)
        .returning(*returning, *_COLUMNS, *(old.c[f"old_{name}"] for name in Standing._fields))
    ).one_or_none()
    if row is None:
        return None
    told = tuple(row)[len(returning) :]
    size = len(Standing._fields)
    _tell(connection, account, before or Standing._make(told[size:]), Standing._make(told[:size]))
    return row


def _tell(connection: Connection, account: Account, before: Standing, after: Standing) -> None:
    key = (account.tenant_id, account.id)
    error = {"error_code": after.last_error_code}
    if after.last_sync_at and not before.last_sync_at:
        connection.execute(_TELL_OF_FIRST_SYNC, {"tenant_id": account.tenant_id, "account_id": account.id})
    if after.paused_at and not before.paused_at:
        tell(connection, *key, EventType.ACCOUNT_PAUSED, {"side": "receiving", **error})
    elif after.failing_since and not after.paused_at and (before.paused_at or not before.failing_since):
        tell(connection, *key, EventType.ACCOUNT_FAILING, error)
    elif (before.paused_at or before.failing_since) and not (after.paused_at or after.failing_since):
        tell(connection, *key, EventType.ACCOUNT_RESUMED, {"side": "receiving"})
    if bool(after.smtp_paused_at) != bool(before.smtp_paused_at):
        kind = EventType.ACCOUNT_PAUSED if after.smtp_paused_at else EventType.ACCOUNT_RESUMED
        tell(connection, *key, kind, {"side": "sending"})
