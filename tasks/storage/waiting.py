"""Messages of the outbox whose next try is to come, of all tenants: which are due, and what makes them due.

While a mail server is away, few of those that wait for it are tried; what goes out in the end makes the others due.
All times are of the clock of the database.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, text

from tasks.storage.accounts.rows import Account
from tasks.storage.outbox import Outgoing
from tasks.storage.session import tenant_transaction, unbound_transaction

# While a server is away, so many accounts try it at once; and so many messages are queued for one that is back.
_PROBES_PER_HOST, _RELEASED_PER_HOST = 5, 500


class Due(NamedTuple):
    """A message whose next try is due. `task` is what `Outgoing.task` is."""

    tenant_id: str
    outbox_id: str
    user_id: str
    task: dict[str, Any] | None


class Waiting(NamedTuple):
    """How many messages are not sent yet, how many of them are late, and the age of the oldest in seconds."""

    messages: int
    late: int
    oldest_seconds: float | None


_OTHERS_WAIT = text(
    """
    SELECT EXISTS (
      SELECT FROM outbox_message
      WHERE tenant_id = :tenant_id AND state <> 'sent' AND state = 'queued' AND email_client_id = :account_id
        AND id <> :id AND dispatched_at IS NULL AND next_try_at > clock_timestamp()
        AND last_error_code <> 'server_busy'
    )
    """
)
_CLAIM = text("SELECT tenant_id, outbox_id, user_id, task FROM claim_waiting_mail(:limit, :probes, :released, :lost)")
_UNCLAIM = text("UPDATE outbox_message SET dispatched_at = NULL WHERE tenant_id = :tenant_id AND id = :id")
_RELEASE_MAIL = text("SELECT release_waiting_mail(:tenant_id, :account_id)")
_RELEASE_COPIES = text("SELECT release_waiting_copies(:tenant_id, :account_id)")
_COUNT = text("SELECT messages, late, oldest_seconds FROM count_waiting_mail(:late_seconds)")
_COUNT_UNSENT = text(
    """
    SELECT count(*) FROM outbox_message
    WHERE tenant_id = :tenant_id AND email_client_id = :account_id AND state <> 'sent'
      AND state IN ('queued', 'sending', 'unknown')
    """
)
_CHOSEN = """
    FROM outbox_message
    WHERE tenant_id = :tenant_id AND state <> 'sent' AND state = ANY(:states)
      AND (CAST(:account_id AS text) IS NULL OR email_client_id = :account_id)
"""
_FIND_AGAIN = text(f"SELECT id {_CHOSEN} ORDER BY created_at")
# Recipients that the server took are not asked about again, the others are.
_ASK_AGAIN = text(
    f"""
    WITH chosen AS (SELECT tenant_id, id {_CHOSEN} FOR UPDATE)
    UPDATE outbox_message AS message
    SET state = CASE message.state WHEN 'failed' THEN 'queued' ELSE message.state END,
        recipients = CASE message.state WHEN 'failed' THEN (
          SELECT jsonb_agg(CASE recipient->>'state'
            WHEN 'accepted' THEN recipient
            ELSE jsonb_build_object('address', recipient->'address', 'state', 'pending', 'reply', '')
          END) FROM jsonb_array_elements(message.recipients) AS recipient
        ) ELSE message.recipients END,
        asked_at = CASE message.state WHEN 'failed' THEN clock_timestamp() ELSE message.asked_at END,
        attempts = 0, next_try_at = clock_timestamp(), dispatched_at = '-infinity', updated_at = clock_timestamp()
    FROM chosen
    WHERE message.tenant_id = chosen.tenant_id AND message.id = chosen.id
    RETURNING message.id
    """
)


def others_wait(connection: Connection, outgoing: Outgoing) -> bool:
    """Whether another message of the account waits for its next try already."""
    return bool(
        connection.scalar(
            _OTHERS_WAIT, {"tenant_id": outgoing.tenant_id, "id": outgoing.id, "account_id": outgoing.email_client_id}
        )
    )


def claim_waiting(limit: int, lost_seconds: int) -> list[Due]:
    """Claim messages of all tenants that are due, for tasks that are to be queued; a task that has not begun after
    `lost_seconds` is taken for lost. While a server is away, few are due at once, and of each account one."""
    values = {"limit": limit, "probes": _PROBES_PER_HOST, "released": _RELEASED_PER_HOST, "lost": lost_seconds}
    with unbound_transaction() as connection:
        return [Due._make(row) for row in connection.execute(_CLAIM, values)]


def unclaim_waiting(due: Sequence[Due]) -> None:
    """What could not be queued is due again."""
    for one in due:
        with tenant_transaction(one.tenant_id) as connection:
            connection.execute(_UNCLAIM, {"tenant_id": one.tenant_id, "id": one.outbox_id})


def release_waiting(outgoing: Outgoing) -> None:
    """What had to wait, and was in this state, had success: others that wait for the same server or login are due.

    Of the SMTP server where it was sent, of the mailbox where its copy was filed or it was found there.
    """
    statement = _RELEASE_MAIL if outgoing.state == "sending" else _RELEASE_COPIES
    with unbound_transaction() as connection:
        connection.execute(statement, {"tenant_id": outgoing.tenant_id, "account_id": outgoing.email_client_id})


def count_waiting(late_seconds: int) -> Waiting:
    """The messages of all tenants that are not sent and not given up."""
    with unbound_transaction() as connection:
        return Waiting._make(connection.execute(_COUNT, {"late_seconds": late_seconds}).one())


def count_unsent(account: Account) -> int:
    """The account's messages that nobody may have yet and that are not given up."""
    with tenant_transaction(account.tenant_id) as connection:
        values = {"tenant_id": account.tenant_id, "account_id": account.id}
        return int(connection.execute(_COUNT_UNSENT, values).scalar_one())


def ask_again(tenant_id: str, states: Sequence[str], account_id: str | None, *, only_looks: bool) -> list[str]:
    """Make the tenant's messages in these states due now, failed ones as if they were new; their ids.

    With `only_looks` nothing is changed.
    """
    values = {"tenant_id": tenant_id, "states": list(states), "account_id": account_id}
    with tenant_transaction(tenant_id) as connection:
        return list(connection.scalars(_FIND_AGAIN if only_looks else _ASK_AGAIN, values))
