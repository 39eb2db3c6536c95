"""Secrets at rest: Fernet (authenticated, AES-128-CBC with HMAC-SHA256) under one or several keys.

The first key of CREDENTIAL_ENCRYPTION_KEY encrypts, every key decrypts, so that
keys can be rotated (`storage.rotation`). The encrypted text includes the tenant
and the id of its row, so a ciphertext that was copied to another row is refused.

Where there is no key, as on the application's own hosts, CREDENTIAL_PUBLIC_KEY encrypts: HPKE (RFC 9180) for an
X25519 key that is derived from the first key. Whoever has the keys opens both; the public key opens nothing.
"""

import base64
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
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.hpke import Suite

PASSWORD = "password"  # noqa: S105  # a kind of secret
OAUTH2 = "oauth2_refresh_token"
TASK_ARGUMENTS = "task_arguments"  # the arguments of a dead letter
WEBHOOK_SECRET = "webhook_secret"  # noqa: S105  # a kind of secret

# How a ciphertext begins that was made with the public key; one of Fernet begins with gAAAA.
_BY_PUBLIC_KEY = b"hpke:"
_PURPOSE = b"metabuilder: secrets of accounts"


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

    Raises NotFoundError, CredentialUnreadableError where no key opens it, or ConfigurationError where there is none.
    """
    _keys()  # asked first: the login of a host that has no key may not read the row
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
    """Encrypt with the first key, or without any with the public key. Raises ConfigurationError without both."""
    opened = json.dumps({"tenant_id": tenant_id, "id": credential_id, "secret": secret}).encode()
    settings = get_settings().credentials
    if settings.public_key and not settings.encryption_keys:
        return _sealed_by_public_key(opened, settings.public_key)
    return Sealed(_fernet().encrypt(opened), key_ids()[0])


def unseal(tenant_id: str, credential_id: str, sealed: Sealed) -> str:
    """Decrypt with whichever key fits. Raises CredentialUnreadableError."""
    from cryptography.fernet import InvalidToken

    try:
        opened = json.loads(_opened(bytes(sealed.ciphertext)))
        row, secret = (opened["tenant_id"], opened["id"]), opened["secret"]
    except InvalidToken:
        raise CredentialUnreadableError(f"it needs key {sealed.key_id}; known: {', '.join(key_ids())}") from None
    except (ValueError, LookupError, TypeError, RecursionError):  # whoever has the public key can encrypt anything
        raise CredentialUnreadableError("it holds no secret") from None
    if row != (tenant_id, credential_id):
        raise CredentialUnreadableError("it belongs to another row")
    return str(secret)


def key_ids() -> list[str]:
    """A name for each key, first that of the encrypting key: the
    beginning of its SHA-256, which does not reveal the key."""
    return [_name(key) for key in _keys()]


def _name(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:8]


def public_key_in_use() -> str:
    """The public key that belongs to the first key. Raises ConfigurationError without a key."""
    return public_key(_keys()[0])


def public_key(key: str) -> str:
    """What encrypts for a key of CREDENTIAL_ENCRYPTION_KEY and opens nothing, as CREDENTIAL_PUBLIC_KEY has it.

    That is the name of the key, and the public half of an X25519 key in URL-safe base64.
    """
    raw = _private_key(key).public_key().public_bytes_raw()
    return f"{_name(key)}:{base64.urlsafe_b64encode(raw).decode()}"


def _sealed_by_public_key(opened: bytes, public: str) -> Sealed:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

    key_id, _, text = public.partition(":")
    key = X25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(text))
    return Sealed(_BY_PUBLIC_KEY + _suite().encrypt(opened, key, _PURPOSE), key_id)


def _opened(ciphertext: bytes) -> bytes:
    """Raises cryptography.fernet.InvalidToken where no key fits."""
    from cryptography.exceptions import InvalidTag
    from cryptography.fernet import InvalidToken

    if not ciphertext.startswith(_BY_PUBLIC_KEY):
        return _fernet().decrypt(ciphertext)
    for key in _keys():
        try:
            return _suite().decrypt(ciphertext.removeprefix(_BY_PUBLIC_KEY), _private_key(key), _PURPOSE)
        except (InvalidTag, ValueError):
            continue
    raise InvalidToken


def _private_key(key: str) -> "X25519PrivateKey":
    """The X25519 key that belongs to a key of CREDENTIAL_ENCRYPTION_KEY."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    derived = HKDF(SHA256(), length=32, salt=None, info=_PURPOSE).derive(base64.urlsafe_b64decode(key))
    return X25519PrivateKey.from_private_bytes(derived)


def _suite() -> "Suite":
    from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

    return Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)


def _keys() -> list[str]:
    settings = get_settings().credentials
    keys = settings.encryption_keys
    if not keys and settings.public_key:
        raise ConfigurationError("this host stores secrets and reads none: do this on a host of celery_workers")
    if not keys:
        raise ConfigurationError(
            "CREDENTIAL_ENCRYPTION_KEY: not set, so no mail password can be read, and stored only with a "
            "CREDENTIAL_PUBLIC_KEY"
        )
    return [key.get_secret_value() for key in keys]


def _fernet() -> "MultiFernet":
    from cryptography.fernet import Fernet, MultiFernet

    return MultiFernet([Fernet(key) for key in _keys()])
