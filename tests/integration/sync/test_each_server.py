"""The main path on each kind of server: what arrives, changes, is deleted, and the copies of what is sent."""

import time

import pytest

from tasks.storage.accounts.rows import Account
from tests.conftest import Database, sync
from tests.integration.delete.conftest import Delete, delete, ids_of
from tests.integration.send.conftest import Send, pools, send_once, sending_account, smtp
from tests.support.mailbox import Mailbox, message
from tests.support.smtp_server import SmtpServer
from tests.support.stored import assert_counts_agree, column, rows, stored_uids

__all__ = ["delete", "pools", "send_once", "smtp"]

pytestmark = pytest.mark.parametrize("any_mailbox", ["dovecot", "cyrus", "courier"], indirect=True)


def assert_in_sync(account: Account, mailbox: Mailbox, *folders: str) -> None:
    """The rows are where the messages are, and neither a sync nor a full one finds anything to do."""
    for full_since in (None, time.time()):
        assert sync(account, full_since=full_since).done == 0
    for folder in folders:
        assert stored_uids(mailbox.name(folder)) == mailbox.uids(folder), folder
    assert_counts_agree()


def test_what_arrives_and_changes(any_account: Account, any_mailbox: Mailbox) -> None:
    any_mailbox.create("Projekte/Grün")
    any_mailbox.append(message(n) for n in range(1, 8))
    any_mailbox.append([message(100, body="x\n" * 5_000)], "Projekte/Grün", r"\Flagged")
    assert sync(any_account).total("synced") == 8
    assert_in_sync(any_account, any_mailbox, "INBOX", "Projekte/Grün")

    any_mailbox.flag("2:3", r"\Seen Urlaub")
    any_mailbox.expunge("5,7")
    any_mailbox.append([message(8)])
    tally = sync(any_account)

    assert (tally.total("updated"), tally.total("deleted"), tally.total("synced")) == (2, 2, 1)
    assert rows("SELECT imap_uid, labels FROM email_message WHERE is_read ORDER BY 1") == [
        (2, ["Urlaub"]),
        (3, ["Urlaub"]),
    ]
    assert_in_sync(any_account, any_mailbox, "INBOX", "Projekte/Grün")


@pytest.mark.parametrize("permanent", [False, True], ids=["into Trash", "for good"])
def test_what_is_deleted(any_account: Account, any_mailbox: Mailbox, delete: Delete, permanent: bool) -> None:
    with any_mailbox.client() as client:
        client.create("Trash")  # refused where there is one
    any_mailbox.append(message(n) for n in range(1, 6))
    sync(any_account)
    before = dict(rows("SELECT message_id, id FROM email_message"))
    if any_mailbox.name("Trash") != "Trash":
        time.sleep(1.1)  # Courier gives a folder that never had a message another UIDVALIDITY in each second

    assert delete(ids_of(2, 4), permanent=permanent) == 0

    assert sorted(any_mailbox.subjects()) == ["Message 1", "Message 3", "Message 5"]
    assert sorted(any_mailbox.subjects("Trash")) == ([] if permanent else ["Message 2", "Message 4"])
    sync(any_account)
    after = dict(rows("SELECT message_id, id FROM email_message"))
    gone = {"2@example.org", "4@example.org"} if permanent else set()
    assert after == {key: value for key, value in before.items() if key not in gone}
    assert_in_sync(any_account, any_mailbox, "INBOX", "Trash")


def test_copies_of_what_is_sent(database: Database, any_mailbox: Mailbox, smtp: SmtpServer, send_once: Send) -> None:
    account = sending_account(any_mailbox, smtp, sent_copies="append")
    sync(account)

    for task in ("one", "two"):
        assert send_once(account, task).last_error is None

    assert sorted(any_mailbox.subjects("Sent")) == ["one", "two"]
    sync(account)
    assert column("SELECT subject FROM email_message WHERE is_sent ORDER BY subject") == ["one", "two"]
    assert_in_sync(account, any_mailbox, "Sent")
