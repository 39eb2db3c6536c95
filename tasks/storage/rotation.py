"""Encrypts every stored secret with the first key of CREDENTIAL_ENCRYPTION_KEY, while workers read and write secrets.

Secrets are read and written again under the locks of their rows, a batch in each transaction, tenant by tenant. A
rotation can be interrupted and repeated at any time: it goes on with the secrets that still have another key.
"""

from typing import NamedTuple

from sqlalchemy import Connection, text

from tasks.errors import CredentialUnreadableError
from tasks.storage.credentials import Sealed, key_ids, seal, unseal
from tasks.storage.session import tenant_transaction, unbound_transaction

_BATCH = 500

_NOT_UNDER = text(
    """
    SELECT id, ciphertext, key_id FROM credential
    WHERE tenant_id = :tenant_id AND key_id <> :key_id AND id > :after
    ORDER BY id LIMIT :batch FOR UPDATE
    """
)
_WRITE = text(
    """
    UPDATE credential SET ciphertext = fresh.ciphertext, key_id = :key_id, updated_at = now()
    FROM unnest(CAST(:ids AS text[]), CAST(:ciphertexts AS bytea[])) AS fresh (id, ciphertext)
    WHERE credential.tenant_id = :tenant_id AND credential.id = fresh.id
    """
)
_ACCOUNTS = text(
    """
    SELECT account_name FROM email_client
    WHERE tenant_id = :tenant_id AND (credential_id = ANY (:ids) OR smtp_credential_id = ANY (:ids))
    UNION ALL
    SELECT 'webhook ' || url FROM webhook
    WHERE tenant_id = :tenant_id AND (credential_id = ANY (:ids) OR old_credential_id = ANY (:ids))
    ORDER BY account_name
    """
)
_COUNT = text("SELECT tenant_id, key_id, credentials FROM count_credentials() ORDER BY tenant_id, key_id")


class KeyUse(NamedTuple):
    """How many secrets of a tenant are encrypted with a key.

    An empty `key_id` means a key from before keys had names.
    """

    tenant_id: str
    key_id: str
    credentials: int


class Lost(NamedTuple):
    """Secrets of a tenant that no key opens, and the accounts that log in, and webhooks that sign, with them."""

    tenant_id: str
    credential_ids: list[str]
    accounts: list[str]


class Rotation(NamedTuple):
    """How many secrets were encrypted anew, and what could not be read."""

    rewritten: int
    lost: list[Lost]


def count_by_key() -> list[KeyUse]:
    """How many secrets are encrypted with which key, of all tenants."""
    with unbound_transaction() as connection:
        return [KeyUse(*row) for row in connection.execute(_COUNT)]


def rotate() -> Rotation:
    """Encrypt secrets of other keys anew with the first key. Raises ConfigurationError without a key."""
    current = key_ids()[0]
    rewritten, lost = 0, []
    for tenant_id in sorted({use.tenant_id for use in count_by_key() if use.key_id != current}):
        done, unreadable = _rotate_tenant(tenant_id, current)
        rewritten += done
        if unreadable:
            lost.append(_describe(tenant_id, unreadable))
    return Rotation(rewritten, lost)


def find_lost() -> list[Lost]:
    """The secrets that no key opens; nothing is changed."""
    known = set(key_ids())
    tenants = sorted({use.tenant_id for use in count_by_key() if use.key_id not in known})
    found = [(tenant_id, _unreadable(tenant_id)) for tenant_id in tenants]
    return [_describe(tenant_id, unreadable) for tenant_id, unreadable in found if unreadable]


def _rotate_tenant(tenant_id: str, current: str) -> tuple[int, list[str]]:
    rewritten, after = 0, ""
    unreadable: list[str] = []
    while True:
        with tenant_transaction(tenant_id) as connection:
            fresh, failed, last = _read_batch(connection, tenant_id, current, after)
            if last is None:
                return rewritten, unreadable
            connection.execute(
                _WRITE,
                {"tenant_id": tenant_id, "key_id": current, "ids": list(fresh), "ciphertexts": list(fresh.values())},
            )
        rewritten, unreadable, after = rewritten + len(fresh), unreadable + failed, last


def _read_batch(
    connection: Connection, tenant_id: str, current: str, after: str
) -> tuple[dict[str, bytes], list[str], str | None]:
    """New ciphertexts by id, the ids of those that no key opens, and the last id, None after the end."""
    values = {"tenant_id": tenant_id, "key_id": current, "after": after, "batch": _BATCH}
    fresh, failed, last = {}, [], None
    for last, ciphertext, key_id in connection.execute(_NOT_UNDER, values):
        try:
            fresh[last] = seal(tenant_id, last, unseal(tenant_id, last, Sealed(ciphertext, key_id))).ciphertext
        except CredentialUnreadableError:
            failed.append(last)
    return fresh, failed, last


def _unreadable(tenant_id: str) -> list[str]:
    found: list[str] = []
    after = ""
    while True:
        with tenant_transaction(tenant_id) as connection:
            _, failed, last = _read_batch(connection, tenant_id, "", after)
        if last is None:
            return found
        found, after = found + failed, last


def _describe(tenant_id: str, unreadable: list[str]) -> Lost:
    with tenant_transaction(tenant_id) as connection:
        accounts = connection.scalars(_ACCOUNTS, {"tenant_id": tenant_id, "ids": unreadable})
        return Lost(tenant_id, unreadable, list(accounts))
