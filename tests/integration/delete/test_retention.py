"""TRASH_RETENTION_DAYS: what has been in Trash for too long is deleted for good, there and here."""

from collections.abc import Callable

import psycopg2
import pytest

from native.dovecot import Dovecot
from native.postgres import libpq
from tasks import delete as tasks
from tasks.delete import empty_trash, enforce_trash_retention
from tasks.errors import AuthenticationFailedError, NotFoundError
from tasks.storage.accounts import Account, record_failure
from tests.conftest import TENANT, USER, Database, register, sync
from tests.integration.delete.conftest import Delete, ids_of
from tests.support.mailbox import Mailbox, message
from tests.support.stored import assert_counts_agree, column

BEST = ["MOVE and UIDPLUS"]


@pytest.fixture
def account(database: Database, mailbox: Mailbox, delete: Delete) -> Account:
    """Messages 1 to 4 are in Trash; 1 and 2 have been for 31 days, 3 for 29."""
    mailbox.append(message(n) for n in range(1, 7))
    account = register(mailbox)
    sync(account)
    delete(ids_of(1, 2, 3, 4))
    as_owner(database, "UPDATE email_message SET filed_at = now() - interval '90 days' WHERE message_id ~ '^[56]@'")
    as_owner(database, "UPDATE email_message SET filed_at = now() - interval '31 days' WHERE message_id ~ '^[12]@'")
    as_owner(database, "UPDATE email_message SET filed_at = now() - interval '29 days' WHERE message_id ~ '^3@'")
    return account


def as_owner(database: Database, statement: str) -> None:
    connection = psycopg2.connect(libpq(database.owner_url))
    connection.autocommit = True
    connection.cursor().execute(statement)
    connection.close()


@pytest.fixture
def queued(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What is queued; the broker itself is at work in test_worker.py."""
    found: list[tuple[str, ...]] = []
    monkeypatch.setattr(tasks.empty_trash, "apply_async", lambda args, **_: found.append(args))
    return found


@pytest.mark.parametrize("mailbox", BEST, indirect=True)
class TestRetention:
    def test_expired_messages_go_and_others_stay(
        self, account: Account, mailbox: Mailbox, environment: Callable[..., None]
    ) -> None:
        environment(DELETE_BATCH_SIZE="1")
        result = empty_trash.run(account.id, TENANT, USER)
        assert result == {"status": "success", "deleted_count": 2}
        assert len(mailbox.uids("Trash")) == 2
        assert mailbox.uids() == [5, 6]
        assert sorted(column("SELECT message_id FROM email_message")) == [f"{n}@example.org" for n in (3, 4, 5, 6)]
        assert_counts_agree()
        assert empty_trash.run(account.id, TENANT, USER)["deleted_count"] == 0

    def test_accounts_with_expired_mail_are_queued(
        self, account: Account, queued: list[tuple[str, ...]], servers: dict[str, Dovecot], mailbox: Mailbox
    ) -> None:
        register(mailbox, name="nothing in Trash")
        assert enforce_trash_retention.run() == {"status": "success", "accounts": 1}
        assert queued == [(account.id, TENANT, USER)]

    def test_never_where_it_is_switched_off(
        self, account: Account, queued: list[tuple[str, ...]], environment: Callable[..., None]
    ) -> None:
        environment(TRASH_RETENTION_DAYS="0")
        assert enforce_trash_retention.run() == {"status": "success", "accounts": 0}

    def test_a_paused_account_is_left_alone(self, account: Account, queued: list[tuple[str, ...]]) -> None:
        record_failure(account, AuthenticationFailedError("x"), pause=True)
        assert enforce_trash_retention.run()["accounts"] == 0

    def test_somebody_elses_account_is_not_found(self, account: Account, mailbox: Mailbox) -> None:
        for tenant, user in ((TENANT, "user-2"), ("tenant-2", USER)):
            with pytest.raises(NotFoundError):
                empty_trash.run(account.id, tenant, user)
        assert len(mailbox.uids("Trash")) == 4


@pytest.mark.parametrize("mailbox", BEST, indirect=True)
def test_a_folder_that_becomes_trash_keeps_its_mail_for_the_whole_time(
    account: Account, mailbox: Mailbox, database: Database
) -> None:
    mailbox.remove("Trash")
    mailbox.create("Old")
    mailbox.append([message(7)], "Old")
    sync(account)
    as_owner(database, "UPDATE email_message SET filed_at = now() - interval '90 days' WHERE message_id ~ '^7@'")
    mailbox.rename("Old", "Trash")
    sync(account)

    assert empty_trash.run(account.id, TENANT, USER)["deleted_count"] == 0
    assert len(mailbox.uids("Trash")) == 1
