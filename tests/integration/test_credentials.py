"""Secrets at rest: encrypted, bound to their row, readable by every key that is still listed."""

from collections.abc import Callable

import pytest
from cryptography.fernet import Fernet

from tasks.errors import CredentialUnreadableError, NotFoundError
from tasks.settings import ConfigurationError
from tasks.storage.credentials import add_credential, read_credential
from tasks.storage.session import tenant_transaction
from tests.conftest import TENANT, Database

SECRET = "sample p@ss:/#%$ wörd"
Environment = Callable[..., None]


def stored(secret: str = SECRET) -> str:
    """The id of a stored secret."""
    with tenant_transaction(TENANT) as connection:
        return add_credential(connection, TENANT, secret)


def read(credential_id: str, tenant: str = TENANT) -> str:
    with tenant_transaction(tenant) as connection:
        return read_credential(connection, tenant, credential_id)


def test_a_secret_comes_back_and_is_not_in_the_database(database: Database) -> None:
    credential_id = stored()
    assert read(credential_id) == SECRET
    with tenant_transaction(TENANT) as connection:
        ciphertext = bytes(connection.exec_driver_sql("SELECT ciphertext FROM credential").scalar_one())
    assert SECRET.encode() not in ciphertext


def test_an_old_key_still_opens_after_a_new_one_was_put_first(database: Database, environment: Environment) -> None:
    old, new = Fernet.generate_key().decode(), Fernet.generate_key().decode()
    environment(CREDENTIAL_ENCRYPTION_KEY=old)
    credential_id = stored()
    environment(CREDENTIAL_ENCRYPTION_KEY=f"{new}, {old}")
    assert read(credential_id) == SECRET
    environment(CREDENTIAL_ENCRYPTION_KEY=new)
    with pytest.raises(CredentialUnreadableError, match="entered again"):
        read(credential_id)


def test_a_ciphertext_copied_to_another_row_is_refused(database: Database) -> None:
    first, second = stored("first"), stored("second")
    with tenant_transaction(TENANT) as connection:
        connection.exec_driver_sql(
            "UPDATE credential SET ciphertext = (SELECT ciphertext FROM credential WHERE id = %s) WHERE id = %s",
            (first, second),
        )
    with pytest.raises(CredentialUnreadableError, match="another row"):
        read(second)


def test_another_tenants_secret_is_not_found(database: Database) -> None:
    with pytest.raises(NotFoundError):
        read(stored(), tenant="tenant-2")


@pytest.mark.parametrize("keys", ["", "too short", "a,b"])
def test_a_missing_or_broken_key_is_named_and_not_shown(
    database: Database, environment: Environment, keys: str
) -> None:
    environment(CREDENTIAL_ENCRYPTION_KEY=keys)
    with pytest.raises(ConfigurationError, match="CREDENTIAL_ENCRYPTION_KEY") as refusal:
        stored()
    assert not keys or keys not in str(refusal.value)
