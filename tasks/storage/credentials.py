"""Secrets at rest: Fernet (authenticated, AES-128-CBC with HMAC-SHA256) under one or several keys.

The first key of CREDENTIAL_ENCRYPTION_KEY encrypts, every key decrypts, so that keys can be rotated. What is
encrypted names its tenant and row: a ciphertext copied to another row is refused.
"""

import json
from typing import TYPE_CHECKING

from sqlalchemy import Connection, delete, insert, select

from tasks.errors import CredentialUnreadableError, NotFoundError
from tasks.settings import ConfigurationError, get_settings
from tasks.storage.ids import new_id
from tasks.storage.models import Credential

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet


def add_credential(connection: Connection, tenant_id: str, secret: str, kind: str = "password") -> str:
    """Store `secret` encrypted and return its id."""
    credential_id = new_id()
    sealed = json.dumps({"tenant_id": tenant_id, "id": credential_id, "secret": secret}).encode()
    connection.execute(
        insert(Credential).values(
            tenant_id=tenant_id, id=credential_id, kind=kind, ciphertext=_keys().encrypt(sealed)
        )
    )
    return credential_id


def read_credential(connection: Connection, tenant_id: str, credential_id: str) -> str:
    """The secret. Raises NotFoundError, or CredentialUnreadableError where no key opens it."""
    from cryptography.fernet import InvalidToken

    ciphertext = connection.scalar(
        select(Credential.ciphertext).where(Credential.tenant_id == tenant_id, Credential.id == credential_id)
    )
    if ciphertext is None:
        raise NotFoundError("credential")
    try:
        opened = json.loads(_keys().decrypt(bytes(ciphertext)))
    except InvalidToken:
        raise CredentialUnreadableError from None
    if (opened["tenant_id"], opened["id"]) != (tenant_id, credential_id):
        raise CredentialUnreadableError("it belongs to another row")
    secret: str = opened["secret"]
    return secret


def remove_credential(connection: Connection, tenant_id: str, credential_id: str) -> None:
    """Forget the secret; nothing may refer to it any more."""
    connection.execute(delete(Credential).where(Credential.tenant_id == tenant_id, Credential.id == credential_id))


def _keys() -> "MultiFernet":
    from cryptography.fernet import Fernet, MultiFernet

    keys = get_settings().credentials.encryption_keys
    if not keys:
        raise ConfigurationError("CREDENTIAL_ENCRYPTION_KEY: not set, so no mail password can be stored or read")
    try:
        return MultiFernet([Fernet(key.get_secret_value()) for key in keys])
    except ValueError:
        raise ConfigurationError(
            "CREDENTIAL_ENCRYPTION_KEY: each key must be 32 bytes in URL-safe base64, several separated by commas"
        ) from None
