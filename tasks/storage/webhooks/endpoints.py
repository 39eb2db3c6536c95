"""The endpoints of a tenant: added, listed, removed; their secrets; and from where they get events again."""

import base64
import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, text

from tasks.errors import CredentialUnreadableError, NotFoundError
from tasks.storage.credentials import (
    WEBHOOK_SECRET,
    add_credential,
    read_credential_of_kind,
    remove_credential,
)
from tasks.storage.ids import new_id
from tasks.storage.session import tenant_transaction

# Standard Webhooks: a secret is 24 to 64 random bytes in base64, after this prefix.
SECRET_PREFIX, _SECRET_BYTES = "whsec_", 32

_ADD = text(
    """
    INSERT INTO webhook (tenant_id, id, url, types, account_ids, credential_id, transaction_id, number)
    VALUES (:tenant_id, :id, :url, :types, :account_ids, :credential_id,
            pg_snapshot_xmin(pg_current_snapshot())::text::bigint, 0)
    """
)
_LIST = text(
    """
    SELECT id, url, types, account_ids, is_enabled, disabled_reason, disabled_at, attempts, next_try_at,
           failing_since, last_error, last_accepted_at, given_up, old_secret_until, created_at,
           (SELECT count(*) FROM webhook_backlog AS backlog
            WHERE backlog.tenant_id = webhook.tenant_id AND backlog.webhook_id = webhook.id) AS accounts_behind,
           (SELECT min(event.created_at) FROM event
            WHERE event.tenant_id = webhook.tenant_id
              AND (event.transaction_id, event.number) > (webhook.transaction_id, webhook.number)
              AND (webhook.types = '{}' OR event.type = ANY(webhook.types))
              AND (webhook.account_ids = '{}' OR event.email_client_id = ANY(webhook.account_ids))) AS waiting_since
    FROM webhook
    WHERE tenant_id = :tenant_id AND (CAST(:id AS text) IS NULL OR id = :id)
    ORDER BY created_at, id
    """
)
_CREDENTIALS = text(
    """
    SELECT credential_id, old_credential_id, coalesce(old_secret_until > clock_timestamp(), false) FROM webhook
    WHERE tenant_id = :tenant_id AND id = :id FOR UPDATE
    """
)
_ROTATE = text(
    """
    UPDATE webhook
    SET credential_id = :credential_id, old_credential_id = :old_credential_id,
        old_secret_until = clock_timestamp() + make_interval(hours => :hours)
    WHERE tenant_id = :tenant_id AND id = :id
    """
)
_REMOVE = text("DELETE FROM webhook WHERE tenant_id = :tenant_id AND id = :id")
_BACKLOG_AT_ONCE = text(
    """
    UPDATE webhook_backlog SET attempts = 0, next_try_at = clock_timestamp(), failing_since = NULL
    WHERE tenant_id = :tenant_id AND webhook_id = :id
    """
)
_ENABLE = text(
    """
    UPDATE webhook
    SET is_enabled = true, disabled_reason = NULL, disabled_at = NULL, attempts = 0, failing_since = NULL,
        last_error = NULL, next_try_at = clock_timestamp()
    WHERE tenant_id = :tenant_id AND id = :id
    """
)
# From the first event since then on. What an account waits for from before stays in the backlog, and whoever delivers
# at the moment loses the claim, so that its result does not move the position again.
_REPLAY = text(
    """
    WITH first AS (
      SELECT transaction_id, number - 1 AS number FROM event
      WHERE tenant_id = :tenant_id AND created_at >= :since ORDER BY transaction_id, number LIMIT 1
    ), moved AS (
      UPDATE webhook
      SET transaction_id = first.transaction_id, number = first.number, claimed_by = NULL, claimed_until = NULL,
          next_try_at = clock_timestamp()
      FROM first
      WHERE webhook.tenant_id = :tenant_id AND (CAST(:id AS text) IS NULL OR webhook.id = :id)
        AND webhook.is_enabled
        AND (webhook.transaction_id, webhook.number) > (first.transaction_id, first.number)
      RETURNING webhook.id, first.transaction_id, first.number
    ), covered AS (
      DELETE FROM webhook_backlog USING moved
      WHERE webhook_backlog.tenant_id = :tenant_id AND webhook_backlog.webhook_id = moved.id
        AND (webhook_backlog.transaction_id, webhook_backlog.number) >= (moved.transaction_id, moved.number)
    )
    SELECT id FROM moved ORDER BY id
    """
)


class Endpoint(NamedTuple):
    """An endpoint as a person sees it. `accounts_behind` counts the accounts with events that it has not accepted;
    `waiting_since` is the time of the oldest event that was not looked at yet."""

    id: str
    url: str
    types: list[str]
    account_ids: list[str]
    is_enabled: bool
    disabled_reason: str | None
    disabled_at: datetime | None
    attempts: int
    next_try_at: datetime
    failing_since: datetime | None
    last_error: str | None
    last_accepted_at: datetime | None
    given_up: int
    old_secret_until: datetime | None
    created_at: datetime
    accounts_behind: int
    waiting_since: datetime | None


def add_webhook(
    tenant_id: str, url: str, types: Sequence[str] = (), account_ids: Sequence[str] = ()
) -> tuple[str, str]:
    """Add an endpoint, which is told of what changes from now on. Returns its id and its secret."""
    webhook_id, secret = new_id(), _new_secret()
    with tenant_transaction(tenant_id) as connection:
        values = {"tenant_id": tenant_id, "id": webhook_id, "url": url}
        credential_id = add_credential(connection, tenant_id, secret, WEBHOOK_SECRET)
        chosen = {"types": list(types), "account_ids": list(account_ids), "credential_id": credential_id}
        connection.execute(_ADD, {**values, **chosen})
    return webhook_id, secret


def list_webhooks(tenant_id: str) -> list[Endpoint]:
    """The tenant's endpoints, the oldest first."""
    with tenant_transaction(tenant_id) as connection:
        return [Endpoint._make(row) for row in connection.execute(_LIST, {"tenant_id": tenant_id, "id": None})]


def find_webhook(tenant_id: str, webhook_id: str) -> Endpoint:
    """The tenant's endpoint with this id. Raises NotFoundError."""
    with tenant_transaction(tenant_id) as connection:
        row = connection.execute(_LIST, {"tenant_id": tenant_id, "id": webhook_id}).one_or_none()
    if row is None:
        raise NotFoundError(f"webhook {webhook_id}")
    return Endpoint._make(row)


def read_secrets(connection: Connection, tenant_id: str, webhook_id: str) -> tuple[str, ...]:
    """The secrets that requests are signed with now: the present one, and the one before while it is still good.

    Raises NotFoundError, and CredentialUnreadableError where no key opens one, or where it is not the secret of a
    webhook: the application can write any of the tenant's credentials into the row, and whoever gets a signature made
    with a mail password can guess it.
    """
    current, old, is_old_good = _credentials(connection, tenant_id, webhook_id)
    ids = (current, old) if old and is_old_good else (current,)
    found = [read_credential_of_kind(connection, tenant_id, credential_id) for credential_id in ids]
    if any(kind != WEBHOOK_SECRET for kind, _ in found):
        raise CredentialUnreadableError("it is not the secret of a webhook")
    return tuple(secret for _, secret in found)


def secrets_of(tenant_id: str, webhook_id: str) -> tuple[str, ...]:
    """As `read_secrets`, in a transaction of its own."""
    with tenant_transaction(tenant_id) as connection:
        return read_secrets(connection, tenant_id, webhook_id)


def rotate_secret(tenant_id: str, webhook_id: str, overlap_hours: int) -> str:
    """Give an endpoint another secret, and sign with both for so many hours. Returns the new one.

    A secret that was still good from the rotation before is not, from now on. Raises NotFoundError.
    """
    secret = _new_secret()
    with tenant_transaction(tenant_id) as connection:
        current, old, _ = _credentials(connection, tenant_id, webhook_id)
        fresh = add_credential(connection, tenant_id, secret, WEBHOOK_SECRET)
        values = {"tenant_id": tenant_id, "id": webhook_id, "hours": overlap_hours}
        connection.execute(_ROTATE, {**values, "credential_id": fresh, "old_credential_id": current})
        if old:
            remove_credential(connection, tenant_id, old)
    return secret


def remove_webhook(tenant_id: str, webhook_id: str) -> None:
    """Remove an endpoint with its secrets and with what it has not accepted. Raises NotFoundError."""
    with tenant_transaction(tenant_id) as connection:
        current, old, _ = _credentials(connection, tenant_id, webhook_id)
        connection.execute(_REMOVE, {"tenant_id": tenant_id, "id": webhook_id})
        for credential_id in filter(None, (current, old)):
            remove_credential(connection, tenant_id, credential_id)


def enable(tenant_id: str, webhook_id: str) -> None:
    """Deliver to an endpoint again, at once and from where it stopped: it has just accepted a request."""
    values = {"tenant_id": tenant_id, "id": webhook_id}
    with tenant_transaction(tenant_id) as connection:
        connection.execute(_ENABLE, values)
        connection.execute(_BACKLOG_AT_ONCE, values)


def replay(tenant_id: str, since: datetime, webhook_id: str | None) -> list[str]:
    """Deliver the events since then again, with the ids that they have, to this endpoint or to all that are enabled.

    Returns the ids of the endpoints that have had such events.
    """
    with tenant_transaction(tenant_id) as connection:
        values = {"tenant_id": tenant_id, "since": since, "id": webhook_id}
        return list(connection.scalars(_REPLAY, values))


def _credentials(connection: Connection, tenant_id: str, webhook_id: str) -> tuple[str, str | None, bool]:
    row = connection.execute(_CREDENTIALS, {"tenant_id": tenant_id, "id": webhook_id}).one_or_none()
    if row is None:
        raise NotFoundError(f"webhook {webhook_id}")
    return row[0], row[1], row[2]


def _new_secret() -> str:
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()
