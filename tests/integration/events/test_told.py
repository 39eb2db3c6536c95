"""What the application is told of: each change once, and a first sync with one event."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from tasks.errors import AuthenticationFailedError, FoldersFailedError, MailServerUnavailableError
from tasks.mail.session import CommandRefusedError
from tasks.mail.spam.verdict import Verdict
from tasks.storage.accounts import leases
from tasks.storage.accounts.logins import RECEIVING, SENDING, note_login, note_refusal
from tasks.storage.accounts.rows import (
    Account,
    change_password,
    clear_error,
    find_account,
    get_account,
    record_failure,
    record_success,
    remove_account,
)
from tasks.storage.messages.folders import load_folders
from tasks.storage.messages.spam import save_verdicts
from tasks.storage.session import tenant_transaction
from tests.conftest import TENANT, USER, Database, sync
from tests.support.mailbox import Mailbox, message
from tests.support.stored import column, rows
from tests.support.told import Witness, data_of, told
from tests.support.worker import wait_until


def types(after: str = "") -> list[str]:
    return [event.type for event in told(after=after)]


def folder_ids(account: Account) -> dict[str, str]:
    with tenant_transaction(TENANT) as connection:
        return {folder.name: folder.id for folder in load_folders(connection, account, None).values()}


def test_a_first_sync_is_one_event_and_each_change_after_it_is_one(account: Account, mailbox: Mailbox) -> None:
    # A first sync, in two parts, is one event with counts
    mailbox.create("Projects")
    mailbox.append([message(n) for n in range(1, 6)])
    mailbox.append([message(6)], "Projects")
    inbox_only = sync(account)
    assert inbox_only.total("synced") == 6
    (first,) = told()
    assert (first.type, first.email_client_id) == ("account.synced", account.id)
    assert first.data == {"folders": len(folder_ids(account)), "messages": 6}
    assert first.id[14] == "7", "a UUIDv7"

    # A sync that finds nothing says nothing
    account = find_account(TENANT, account.id)
    witness = Witness()
    sync(account)
    assert types(witness.position) == []

    # Messages arrive, are read, and go; folders come, get another name, and go
    before = folder_ids(account)
    mailbox.append([message(7), message(8, In_Reply_To="<7@example.org>")])
    mailbox.flag("1,2", r"\Seen")
    mailbox.flag("2", r"\Flagged")
    mailbox.expunge("3")
    mailbox.create("New")
    mailbox.rename("Projects", "Work")
    sync(account)
    witness.check()
    after = folder_ids(account)
    assert sorted(types(witness.position)) == [
        *("folder.created", "folder.renamed"),
        *("message.created", "message.created", "message.deleted", "message.updated", "message.updated"),
    ]
    assert data_of("folder.created", after=witness.position) == [
        {"folder_id": after["New"], "name": "New", "type": "custom"}
    ]
    assert data_of("folder.renamed", after=witness.position) == [
        {"folder_id": before["Projects"], "name": "Work", "old_name": "Projects"}
    ]
    changes = [data["changes"] for data in data_of("message.updated", after=witness.position)]
    assert sorted(changes, key=len) == [{"is_read": True}, {"is_read": True, "is_starred": True}]

    # A folder that goes with its messages is one event
    position = told()[-1].position
    mailbox.remove("Work")
    sync(account)
    witness.check()
    assert [(event.type, event.data) for event in told(after=position)] == [
        ("folder.deleted", {"folder_id": after["Work"], "name": "Work", "messages_deleted": 1})
    ]


def test_a_verdict_is_told_when_it_is_another_and_after_the_first_sync(account: Account, mailbox: Mailbox) -> None:
    mailbox.append([message(1)])
    sync(account)
    [message_id] = column("SELECT id FROM email_message")
    rows("UPDATE email_client SET last_sync_at = NULL RETURNING 1")
    witness = Witness()
    for score in (0.5, 0.5, 0.25):
        with tenant_transaction(TENANT) as connection:
            save_verdicts(connection, TENANT, [(str(message_id), Verdict(score, ()))])
        rows("UPDATE email_client SET last_sync_at = now() RETURNING 1")
    changes = [data["changes"] for data in data_of(after=witness.position)]
    assert changes == [{"spam_score": 0.25}]


def end_first_sync(account: Account) -> None:
    with tenant_transaction(TENANT) as connection:
        record_success(connection, account, whole_account=True)


def test_the_end_of_a_first_sync_waits_for_a_verdict_that_is_not_told(
    account: Account, mailbox: Mailbox, database: Database
) -> None:
    mailbox.append([message(1)])
    sync(account)
    [message_id] = column("SELECT id FROM email_message")
    rows("UPDATE email_client SET last_sync_at = NULL RETURNING 1")
    with create_engine(database.owner_url).connect() as owner, ThreadPoolExecutor(1) as thread:
        with tenant_transaction(TENANT) as connection:
            save_verdicts(connection, TENANT, [(str(message_id), Verdict(0.5, ()))])
            ending = thread.submit(end_first_sync, account)
            waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
            wait_until(lambda: owner.scalar(waiting) or ending.done(), "the sync does not come to its end")
            assert not ending.done(), "whoever reads the rows at account.synced would never learn of the verdict"
        ending.result()


def test_a_run_that_begins_as_a_first_sync_ends_tells_of_what_it_changes(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_just_before(*arguments: Any) -> Account:
        found = get_account(*arguments)
        end_first_sync(account)
        return found

    monkeypatch.setattr(leases, "get_account", read_just_before)
    assert leases.take_lease(TENANT, USER, account.id, "run", 60).has_synced


def test_a_folder_that_is_numbered_anew_is_one_event(account: Account, mailbox: Mailbox) -> None:
    mailbox.create("Projects")
    mailbox.append([message(n, body="x" * n) for n in range(1, 6)], "Projects")
    sync(account)
    witness = Witness()

    # When the folder is made again with four of its messages, it has another UIDVALIDITY
    mailbox.rename("Projects", "Old")
    mailbox.create("Projects")
    with mailbox.client() as client:
        client.select("Old")
        client.uid("COPY", "1:4", "Projects")
    mailbox.remove("Old")
    sync(find_account(TENANT, account.id))

    assert "message.created" not in types(witness.position)
    renumbered = data_of("folder.renumbered", after=witness.position)
    assert renumbered == [{"folder_id": folder_ids(account)["Projects"], "messages": 4, "messages_deleted": 1}]
    assert len(types(witness.position)) == 1


def test_how_an_account_stands_is_told_when_it_changes(account: Account, mailbox: Mailbox) -> None:
    record_failure(account, MailServerUnavailableError("down"))
    record_failure(account, MailServerUnavailableError("still down"))
    assert [(event.type, event.data) for event in told()] == [
        ("account.failing", {"error_code": "server_unavailable"})
    ]

    # A login that never worked is refused: paused, and not failing on top of it; a second refusal is no news
    sync(account)
    account = find_account(TENANT, account.id)
    change_password(account, "sample")
    account = find_account(TENANT, account.id)
    for _ in range(2):
        note_refusal(account, RECEIVING, AuthenticationFailedError("no"))
        note_refusal(account, SENDING, AuthenticationFailedError("no"))
    change_password(account, mailbox.password)
    assert [(event.type, event.data.get("side")) for event in told()][1:] == [
        ("account.synced", None),
        ("account.resumed", "receiving"),
        ("account.paused", "receiving"),
        ("account.paused", "sending"),
        ("account.resumed", "receiving"),
        ("account.resumed", "sending"),
    ]
    assert data_of("account.paused")[0]["error_code"] == AuthenticationFailedError.code

    # An account that is removed says so, and not each of its messages
    position = told()[-1].position
    clear_error(account)
    note_login(find_account(TENANT, account.id), RECEIVING, "PLAIN")
    remove_account(account)
    remove_account(account)
    assert types(position) == ["account.removed"]


def test_a_folder_that_fails_at_each_sync_is_told_of_once(
    account: Account, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    mailbox.append([message(1)])

    def refuse(*_: object, **__: object) -> None:
        raise CommandRefusedError("not today")

    with monkeypatch.context() as patch:
        patch.setattr("tasks.engine.sync.mailbox.sync_folder", refuse)
        sync(account)
        sync(find_account(TENANT, account.id))
        assert types() == ["account.synced", "account.failing"]
        assert data_of("account.failing") == [{"error_code": FoldersFailedError.code}]
    failing = find_account(TENANT, account.id)
    assert failing.last_error_code == FoldersFailedError.code

    # A sync that a person asks for ends a pause, and fails as well
    end_first_sync(failing)
    note_refusal(find_account(TENANT, account.id), RECEIVING, AuthenticationFailedError("no"))
    rows("UPDATE email_client SET paused_at = now() RETURNING 1")
    position = told()[-1].position
    with tenant_transaction(TENANT) as connection:
        record_success(connection, failing, whole_account=True, failed=FoldersFailedError("not today"))
    assert data_of(after=position) == [{"error_code": FoldersFailedError.code}]

    position = told()[-1].position
    sync(find_account(TENANT, account.id))
    assert types(position) == ["message.created", "account.resumed"]
