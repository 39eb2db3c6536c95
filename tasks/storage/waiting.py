"""Waiting mail of all tenants: which messages are due for their next try, and what makes messages due.

While a mail server is away, few of the messages that wait for it are tried; the first success makes the others due.
All times are by PostgreSQL's clock.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, text

from tasks.storage.accounts.rows import Account
from tasks.storage.outbox import Outgoing
from tasks.storage.session import tenant_transaction, unbound_transaction
from tasks.storage.states import OutboxState

# How many accounts try a server at once that is away, and how many messages are queued at once for one that is back.
_PROBES_PER_HOST, _RELEASED_PER_HOST = 5, 500


class Due(NamedTuple):
    """A message whose next try is due.

    `task` has the id of the task for that try, and the tasks that are to follow it.
    """

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
_UNDECIDED = text(
    """
    SELECT id FROM outbox_message
    WHERE tenant_id = :tenant_id AND state = 'unknown' AND next_try_at IS NULL
      AND (CAST(:account_id AS text) IS NULL OR email_client_id = :account_id)
    ORDER BY created_at
    """
)
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
# Recipients who have the message are left out of the new try.
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
    """Claim due messages of all tenants, for which the caller queues tasks.

    A message whose task has not begun after `lost_seconds` is claimed again. While a server is away, few messages are
    claimed at once, and one of each account.
    """
    values = {"limit": limit, "probes": _PROBES_PER_HOST, "released": _RELEASED_PER_HOST, "lost": lost_seconds}
    with unbound_transaction() as connection:
        return [Due._make(row) for row in connection.execute(_CLAIM, values)]


def unclaim_waiting(due: Sequence[Due]) -> None:
    """Make messages due again whose tasks could not be queued."""
    for one in due:
        with tenant_transaction(one.tenant_id) as connection:
            connection.execute(_UNCLAIM, {"tenant_id": one.tenant_id, "id": one.outbox_id})


def release_waiting(outgoing: Outgoing) -> None:
    """Make other messages due that wait for the same server or
    login, because a message that had waited in this state succeeded.

    If the message was sent, that means its SMTP server; if its copy was filed or found, the server of its mailbox.
    """
    statement = _RELEASE_MAIL if outgoing.state == OutboxState.SENDING else _RELEASE_COPIES
    with unbound_transaction() as connection:
        connection.execute(statement, {"tenant_id": outgoing.tenant_id, "account_id": outgoing.email_client_id})


def count_waiting(late_seconds: int) -> Waiting:
    """Count the messages of all tenants that are neither sent nor failed."""
    with unbound_transaction() as connection:
        return Waiting._make(connection.execute(_COUNT, {"late_seconds": late_seconds}).one())


def count_unsent(account: Account) -> int:
    """How many messages of the account are still to be sent (queued, sending or unknown)."""
    with tenant_transaction(account.tenant_id) as connection:
        values = {"tenant_id": account.tenant_id, "account_id": account.id}
        return int(connection.execute(_COUNT_UNSENT, values).scalar_one())


def undecided(tenant_id: str, account_id: str | None) -> list[str]:
    """The tenant's messages, of one account or of all, that wait for a person to say whether they were sent."""
    with tenant_transaction(tenant_id) as connection:
        return list(connection.scalars(_UNDECIDED, {"tenant_id": tenant_id, "account_id": account_id}))


def ask_again(tenant_id: str, states: Sequence[str], account_id: str | None, *, only_looks: bool) -> list[str]:
    """Make the tenant's messages in these states due now; failed messages begin anew. Returns their ids.

    With `only_looks` nothing is changed.
    """
    values = {"tenant_id": tenant_id, "states": list(states), "account_id": account_id}
    with tenant_transaction(tenant_id) as connection:
        return list(connection.scalars(_FIND_AGAIN if only_looks else _ASK_AGAIN, values))
