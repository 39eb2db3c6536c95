"""TRASH_RETENTION_DAYS: what has been in Trash for too long is deleted for good, there and here."""

from collections.abc import Callable
from typing import Any

import psycopg2
import pytest
from kombu.exceptions import OperationalError

from native.dovecot import Dovecot
from native.postgres import libpq
from tasks import delete as tasks
from tasks.delete import empty_trash
from tasks.errors import NotFoundError
from tasks.registry import ENFORCE_TRASH_RETENTION
from tasks.settings import WorkerSettings
from tasks.storage.accounts.rows import Account, NewAccount, add_account
from tests.conftest import TENANT, USER, Database, register, sync
from tests.integration.delete.conftest import Delete, ids_of
from tests.support.application import Broker
from tests.support.mailbox import Mailbox, message
from tests.support.stored import assert_counts_agree, column, rows

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
        self, account: Account, broker: Broker, servers: dict[str, Dovecot], mailbox: Mailbox
    ) -> None:
        register(mailbox, name="nothing in Trash")
        assert broker.run(ENFORCE_TRASH_RETENTION) == {"status": "success", "accounts": 1}
        assert broker.taken("delete") == [[account.id, TENANT, USER]]

    def test_never_where_it_is_switched_off(
        self, account: Account, broker: Broker, environment: Callable[..., None]
    ) -> None:
        environment(TRASH_RETENTION_DAYS="0")
        assert broker.run(ENFORCE_TRASH_RETENTION) == {"status": "success", "accounts": 0}

    def test_a_paused_account_is_left_alone(self, account: Account, broker: Broker) -> None:
        rows("UPDATE email_client SET paused_at = now() RETURNING 1")
        assert broker.run(ENFORCE_TRASH_RETENTION)["accounts"] == 0

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


EXPIRED = """
    INSERT INTO email_folder (tenant_id, id, email_client_id, path, name, type)
    SELECT tenant_id, id, id, 'Trash', 'Trash', 'trash' FROM email_client;
    INSERT INTO email_message
      (tenant_id, id, email_client_id, folder_id, uidvalidity, imap_uid, subject, headers, size, filed_at)
    SELECT tenant_id, id, id, id, 1, 1, '', '{}', 1, now() - interval '31 days' FROM email_client
    """


class TestManyAccounts:
    """Five accounts of three tenants, all with expired mail; two are looked up at a time."""

    @pytest.fixture
    def calls(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
        monkeypatch.setattr(tasks, "_ACCOUNTS_AT_A_TIME", 2)
        owners = ["tenant-a", "tenant-a", "tenant-b", "tenant-c", "tenant-c"]
        added = [
            add_account(tenant, USER, NewAccount(f"mail {n}", "a@example.org", "127.0.0.1", 9, "none", "a", "p"))
            for n, tenant in enumerate(owners)
        ]
        as_owner(database, EXPIRED)
        return [[account, tenant, USER] for tenant, account in sorted(zip(owners, added, strict=True))]

    def test_all_are_queued_once(self, calls: list[list[str]], broker: Broker) -> None:
        assert broker.run(ENFORCE_TRASH_RETENTION) == {"status": "success", "accounts": 5}
        assert broker.taken("delete") == calls
        assert broker.taken("periodic") == []

    def test_a_run_out_of_time_has_a_fresh_one_go_on_where_it_stopped(
        self, calls: list[list[str]], broker: Broker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(WorkerSettings, "budget_seconds", 0)
        assert broker.run(ENFORCE_TRASH_RETENTION) == {"status": "partial", "accounts": 2}
        results = []
        while handed_on := broker.taken("periodic"):
            [args] = handed_on
            results.append(broker.run(ENFORCE_TRASH_RETENTION, *args))
        assert broker.taken("delete") == calls
        assert [result["accounts"] for result in results] == [2, 1, 0]
        assert results[-1]["status"] == "success"

    def test_a_broker_that_does_not_take_them_is_tried_again_from_there(
        self, calls: list[list[str]], broker: Broker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        outcomes = iter([None, OperationalError("full")])
        publish = tasks.publish_many

        def refuse_the_second(*what: Any, **options: Any) -> list[str]:
            if error := next(outcomes, None):
                raise error
            return publish(*what, **options)

        monkeypatch.setattr(tasks, "publish_many", refuse_the_second)
        broker.run(ENFORCE_TRASH_RETENTION)  # eagerly, so the retry runs within
        assert broker.taken("delete") == calls
