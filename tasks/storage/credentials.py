"""Secrets at rest: Fernet (authenticated, AES-128-CBC with HMAC-SHA256) under one or several keys.

The first key of CREDENTIAL_ENCRYPTION_KEY encrypts, every key decrypts, so that
keys can be rotated (`storage.rotation`). The encrypted text includes the tenant
and the id of its row, so a ciphertext that was copied to another row is refused.
"""

import hashlib
import json
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import Connection, delete, func, insert, select, update

from tasks.errors import CredentialUnreadableError, NotFoundError
from tasks.settings import ConfigurationError, get_settings
from tasks.storage.ids import new_id
from tasks.storage.models import Credential

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

PASSWORD = "password"  # noqa: S105  # a kind of secret
OAUTH2 = "oauth2_refresh_token"
TASK_ARGUMENTS = "task_arguments"  # the arguments of a dead letter
WEBHOOK_SECRET = "webhook_secret"  # noqa: S105  # a kind of secret


class Sealed(NamedTuple):
    """A secret as it is stored."""

    ciphertext: bytes
    key_id: str


def add_credential(connection: Connection, tenant_id: str, secret: str, kind: str = PASSWORD) -> str:
    """Store `secret` encrypted and return its id."""
    credential_id = new_id()
    sealed = seal(tenant_id, credential_id, secret)
    connection.execute(
        insert(Credential).values(tenant_id=tenant_id, id=credential_id, kind=kind, **sealed._asdict())
    )
    return credential_id


def read_credential(connection: Connection, tenant_id: str, credential_id: str) -> str:
    """The secret. Raises NotFoundError, or CredentialUnreadableError where no key opens it."""
    return read_credential_of_kind(connection, tenant_id, credential_id)[1]


def read_credential_of_kind(connection: Connection, tenant_id: str, credential_id: str) -> tuple[str, str]:
    """The kind of a credential and its secret.

    Raises NotFoundError, or CredentialUnreadableError where no key opens it.
    """
    row = connection.execute(
        select(Credential.kind, Credential.ciphertext, Credential.key_id).where(
            Credential.tenant_id == tenant_id, Credential.id == credential_id
        )
    ).one_or_none()
    if row is None:
        raise NotFoundError("credential")
    return row.kind, unseal(tenant_id, credential_id, Sealed(row.ciphertext, row.key_id))


def kind_of(connection: Connection, tenant_id: str, credential_id: str) -> str | None:
    """The kind of a credential, such as PASSWORD or OAUTH2; None where there is no such credential."""
    return connection.scalar(
        select(Credential.kind).where(Credential.tenant_id == tenant_id, Credential.id == credential_id)
    )


def replace_secret(connection: Connection, tenant_id: str, credential_id: str, secret: str) -> None:
    """Store another secret under the same id."""
    connection.execute(
        update(Credential)
        .where(Credential.tenant_id == tenant_id, Credential.id == credential_id)
        .values(updated_at=func.now(), **seal(tenant_id, credential_id, secret)._asdict())
    )


def remove_credential(connection: Connection, tenant_id: str, credential_id: str) -> None:
    """Delete a secret. No row may refer to it any more."""
    connection.execute(delete(Credential).where(Credential.tenant_id == tenant_id, Credential.id == credential_id))


def seal(tenant_id: str, credential_id: str, secret: str) -> Sealed:
    """Encrypt with the first key. Raises ConfigurationError without a key."""
    opened = json.dumps({"tenant_id": tenant_id, "id": credential_id, "secret": secret}).encode()
    return Sealed(_fernet().encrypt(opened), key_ids()[0])


def unseal(tenant_id: str, credential_id: str, sealed: Sealed) -> str:
    """Decrypt with whichever key fits. Raises CredentialUnreadableError."""
    from cryptography.fernet import InvalidToken

    try:
        opened = json.loads(_fernet().decrypt(bytes(sealed.ciphertext)))
    except InvalidToken:
        raise CredentialUnreadableError(f"it needs key {sealed.key_id}; known: {', '.join(key_ids())}") from None
    if (opened["tenant_id"], opened["id"]) != (tenant_id, credential_id):
        raise CredentialUnreadableError("it belongs to another row")
    secret: str = opened["secret"]
    return secret


def key_ids() -> list[str]:
    """A name for each key, first that of the encrypting key: the
    beginning of its SHA-256, which does not reveal the key."""
    return [hashlib.sha256(key.encode()).hexdigest()[:8] for key in _keys()]


def _keys() -> list[str]:
    keys = get_settings().credentials.encryption_keys
    if not keys:
        raise ConfigurationError("CREDENTIAL_ENCRYPTION_KEY: not set, so no mail password can be stored or read")
    return [key.get_secret_value() for key in keys]


def _fernet() -> "MultiFernet":
    from cryptography.fernet import Fernet, MultiFernet

    return MultiFernet([Fernet(key) for key in _keys()])
