"""The account of the demo mailbox, and what a new password does to an account."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.fernet import Fernet

from native import demo
from tasks.errors import AuthenticationFailedError, CredentialUnreadableError, NotFoundError
from tasks.storage.accounts.logins import RECEIVING, note_refusal
from tasks.storage.accounts.rows import Account, change_password, find_account, read_secret, remove_account
from tasks.storage.session import tenant_transaction
from tests.conftest import TENANT, USER, Database

Environment = Callable[..., None]


def registered(password: str = "first") -> Account:
    demo.register(TENANT, USER, password, 10143, 10025)
    return find_account(TENANT, demo.ACCOUNT)


def secret(account: Account) -> str:
    return read_secret(account, account.credential_id)


def credentials() -> int:
    with tenant_transaction(TENANT) as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM credential").scalar_one())


def test_a_new_password_replaces_the_old_one_and_ends_the_pause(database: Database) -> None:
    before = registered()
    note_refusal(before, RECEIVING, AuthenticationFailedError("NO"))
    change_password(before, "second")
    change_password(before, "third")  # what it knows of the account is old by now
    after = find_account(TENANT, demo.ACCOUNT)
    assert secret(after) == "third"
    assert (after.paused_at, after.last_error_code, after.last_error, after.last_error_at) == (None,) * 4
    assert credentials() == 1


def test_an_account_that_is_gone_gets_no_password(database: Database) -> None:
    account = registered()
    remove_account(account)
    with pytest.raises(NotFoundError):
        change_password(account, "second")
    assert credentials() == 0


def test_the_demo_stores_its_password_again_under_another_key(database: Database, environment: Environment) -> None:
    registered()
    environment(CREDENTIAL_ENCRYPTION_KEY=Fernet.generate_key().decode())
    with pytest.raises(CredentialUnreadableError):
        secret(find_account(TENANT, demo.ACCOUNT))
    assert secret(registered("second")) == "second"
    assert secret(registered("third")) == "second"  # one that can be read is left alone


def test_two_that_register_the_demo_at_once_get_one_account(database: Database) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda _: registered().id, range(4)))
    assert len(found) == 1
