"""Another key for all stored secrets, while others read and write them."""

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cryptography.fernet import Fernet

from manage import cli, credentials
from tasks.errors import CredentialUnreadableError
from tasks.storage import rotation
from tasks.storage.accounts.rows import change_password, read_secret
from tasks.storage.credentials import add_credential, key_ids, read_credential
from tasks.storage.rotation import count_by_key, find_lost, rotate
from tasks.storage.session import tenant_transaction
from tests.conftest import TENANT, Database, register
from tests.support.mailbox import Mailbox

Environment = Callable[..., None]
OLD, NEW = Fernet.generate_key().decode(), Fernet.generate_key().decode()
OTHER_TENANT = "tenant-2"


def stored(count: int, tenant: str = TENANT) -> list[str]:
    with tenant_transaction(tenant) as connection:
        return [add_credential(connection, tenant, f"secret {number} of {tenant}") for number in range(count)]


def read_all(ids: list[str], tenant: str = TENANT) -> list[str]:
    with tenant_transaction(tenant) as connection:
        return [read_credential(connection, tenant, one) for one in ids]


@pytest.fixture
def old_key(database: Database, environment: Environment) -> None:
    environment(CREDENTIAL_ENCRYPTION_KEY=OLD)


@pytest.fixture
def account(old_key: None) -> Any:
    return register(Mailbox("127.0.0.1", 1, "ada", "first"))


def test_secrets_of_all_tenants_are_under_the_new_key_and_the_old_one_can_go(
    old_key: None, environment: Environment
) -> None:
    # Given more than a batch of one tenant, and some of another
    ids, others = stored(rotation._BATCH + 7), stored(3, OTHER_TENANT)
    environment(CREDENTIAL_ENCRYPTION_KEY=f"{NEW},{OLD}")

    done = rotate()

    assert (done.rewritten, done.lost) == (rotation._BATCH + 10, [])
    assert {use.key_id for use in count_by_key()} == {key_ids()[0]}
    environment(CREDENTIAL_ENCRYPTION_KEY=NEW)
    assert read_all(ids) == [f"secret {number} of {TENANT}" for number in range(len(ids))]
    assert read_all(others, OTHER_TENANT) == [f"secret {number} of {OTHER_TENANT}" for number in range(3)]
    assert rotate().rewritten == 0


def test_what_others_write_meanwhile_is_kept(account: Any, environment: Environment) -> None:
    # Given workers and people that read and change secrets all the time
    stored(600)
    environment(CREDENTIAL_ENCRYPTION_KEY=f"{NEW},{OLD}")
    stop, failures, written = threading.Event(), [], []

    def use() -> None:
        from tasks.storage.accounts.rows import find_account

        while not stop.is_set():
            try:
                change_password(account, f"password {len(written)}")
                written.append(f"password {len(written)}")
                now = find_account(TENANT, account.id)
                read_secret(now, now.credential_id)
            except Exception as error:
                failures.append(error)

    user = threading.Thread(target=use)
    user.start()
    try:
        for _ in range(3):
            rotate()
            with tenant_transaction(TENANT) as connection:  # all of it once more
                connection.exec_driver_sql("UPDATE credential SET key_id = ''")
        rotate()
    finally:
        stop.set()
        user.join()

    from tasks.storage.accounts.rows import find_account

    now = find_account(TENANT, account.id)
    assert failures == []
    assert len(written) > 3
    assert read_secret(now, now.credential_id) == written[-1]


def test_a_lost_key_loses_what_it_encrypted_and_says_so(account: Any, environment: Environment) -> None:
    # Given a secret under a key that is gone, and one that is not
    environment(CREDENTIAL_ENCRYPTION_KEY=NEW)
    ids = stored(1)

    assert [(one.tenant_id, one.accounts) for one in find_lost()] == [(TENANT, ["mail"])]
    done = rotate()

    assert (done.rewritten, [one.accounts for one in done.lost]) == (0, [["mail"]])
    assert read_all(ids) == [f"secret 0 of {TENANT}"]
    with pytest.raises(CredentialUnreadableError, match="it needs key"):
        read_secret(account, account.credential_id)


@pytest.fixture
def as_on_a_host(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The verbs, where the operator keeps the keys."""
    monkeypatch.setattr(credentials, "connect", lambda **_: None)
    monkeypatch.setattr(credentials, "IS_HOST", True)
    return lambda *words: CliRunner().invoke(cli.main, ["credentials", *words])


def test_the_operator_is_told_when_the_old_key_can_go(
    account: Any, environment: Environment, as_on_a_host: Callable[..., Result]
) -> None:
    old_id = key_ids()[0]
    environment(CREDENTIAL_ENCRYPTION_KEY=f"{NEW},{OLD}")

    result = as_on_a_host("rotate")

    assert result.exit_code == 0, result.output
    assert f"No secret needs {old_id} any more" in result.output
    known = json.loads(as_on_a_host("keys", "--json").output)["keys"]
    assert [(key["role"], key["credentials"]) for key in known] == [("encrypts", 1), ("decrypts", 0)]
    for key in (OLD, NEW):
        assert key not in result.output


@pytest.mark.parametrize("verb", ["rotate", "keys"])
def test_a_lost_key_is_an_error_that_names_the_accounts(
    account: Any, environment: Environment, as_on_a_host: Callable[..., Result], verb: str
) -> None:
    environment(CREDENTIAL_ENCRYPTION_KEY=NEW)

    result = as_on_a_host(verb)

    assert result.exit_code == 1
    assert f"Tenant {TENANT}: mail" in result.output
    assert "Put that key back" in result.output
    assert "No secret needs" not in result.output
