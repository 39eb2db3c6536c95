"""The Sent folder on a real Dovecot: one copy, one row, and a word on what became of a message."""

import pytest

from tasks.errors import DeliveryInterruptedError, DeliveryUnknownError
from tasks.mail.imap.commands import ImapConnection
from tasks.mail.session import CommandRefusedError
from tasks.storage.accounts.leases import release_lease, take_lease
from tasks.storage.accounts.rows import Account
from tests.conftest import TENANT, USER, Database, sync
from tests.integration.send.conftest import Send, row, sending_account
from tests.support.mailbox import Mailbox
from tests.support.smtp_server import SmtpServer, Taken, drop
from tests.support.stored import assert_counts_agree, rows, stored_uids


@pytest.fixture
def account(database: Database, mailbox: Mailbox, smtp: SmtpServer) -> Account:
    """It files copies of what it sends."""
    return sending_account(mailbox, smtp, sent_copies="auto")


@pytest.fixture
def provider(database: Database, mailbox: Mailbox, smtp: SmtpServer) -> Account:
    """Its provider files copies of what it sends."""

    def file(taken: Taken) -> None:
        mailbox.append([taken.raw], "Sent", r"\Seen")

    mailbox.create("Sent")
    smtp.on_taken = file
    return sending_account(mailbox, smtp, sent_copies="none")


def in_sent(mailbox: Mailbox) -> list[bytes]:
    with mailbox.client() as client:
        client.select("Sent", readonly=True)
        return [client.uid("FETCH", str(uid), "(BODY.PEEK[])")[1][0][1] for uid in mailbox.uids("Sent")]


def test_the_copy_is_what_went_out_and_one_row_with_what_a_sync_finds(
    account: Account, mailbox: Mailbox, smtp: SmtpServer, send_once: Send
) -> None:
    mailbox.create("Sent")
    sync(account)
    send_once(account, "task-1")
    send_once(account, "task-2")

    # At once, before any sync
    assert in_sent(mailbox) == [taken.raw for taken in smtp.messages]
    stored = rows("SELECT id, subject, is_sent, is_read FROM email_message ORDER BY subject")
    assert [row[1:] for row in stored] == [("task-1", True, True), ("task-2", True, True)]
    assert_counts_agree()
    # And still after one
    tally = sync(account)
    assert tally.total("synced") == 0
    assert rows("SELECT id, subject, is_sent, is_read FROM email_message ORDER BY subject") == stored
    assert_counts_agree()


def test_the_flags_that_a_copy_gets_before_the_next_sync_are_not_missed(
    account: Account, mailbox: Mailbox, send_once: Send
) -> None:
    mailbox.create("Sent")
    mailbox.append([b"Subject: an older one\r\n\r\nx\r\n"], "Sent")
    sync(account)
    send_once(account)
    mailbox.flag("2", r"\Flagged", "Sent")

    sync(account)

    assert rows("SELECT imap_uid, is_starred FROM email_message ORDER BY 1") == [(1, False), (2, True)]


def test_mail_that_came_before_the_copy_is_not_skipped_by_it(
    account: Account, mailbox: Mailbox, smtp: SmtpServer, send_once: Send
) -> None:
    mailbox.create("Sent")
    sync(account)
    mailbox.append([b"Subject: by another client\r\n\r\nx\r\n"], "Sent")
    send_once(account)
    assert stored_uids("Sent") == [2]
    sync(account)

    assert stored_uids("Sent") == [1, 2]
    assert_counts_agree()


def test_an_account_that_was_never_synced_gets_its_folder(
    account: Account, mailbox: Mailbox, send_once: Send
) -> None:
    assert send_once(account).state == "sent"

    assert len(in_sent(mailbox)) == 1
    sync(account)
    assert stored_uids("Sent") == [1]


@pytest.mark.parametrize("name", ["Gesendet", "Elsewhere"], ids=["known by its name", "made anew"])
def test_a_sent_folder_that_has_another_name_since_the_last_sync(
    account: Account, mailbox: Mailbox, send_once: Send, name: str
) -> None:
    mailbox.create("Sent")
    sync(account)
    mailbox.rename("Sent", name)

    assert send_once(account).last_error is None

    folder = name if name == "Gesendet" else "Sent"
    assert mailbox.uids(folder) == [1]
    sync(account)
    assert rows("SELECT folder.name FROM email_message JOIN email_folder AS folder ON folder.id = folder_id") == [
        (folder,)
    ]


def test_an_unknown_message_is_looked_for_where_the_sent_folder_is_now(
    provider: Account, mailbox: Mailbox, send_once: Send, smtp: SmtpServer
) -> None:
    sync(provider)
    smtp.on("accepted", drop)
    with pytest.raises(DeliveryInterruptedError):
        send_once(provider)
    mailbox.rename("Sent", "Gesendet")

    assert send_once(provider).state == "sent"


def test_a_sent_folder_that_is_there_and_cannot_be_opened_is_tried_again(
    account: Account, mailbox: Mailbox, send_once: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object, path: str) -> None:
        raise CommandRefusedError(f"{path}: not today")

    mailbox.create("Sent")
    sync(account)
    monkeypatch.setattr(ImapConnection, "select", refuse)
    waits = send_once(account)
    assert (waits.state, waits.waits) == ("accepted", True)
    assert "not today" in str(waits.last_error)


def test_while_a_sync_is_under_way_the_row_is_left_to_it(account: Account, mailbox: Mailbox, send_once: Send) -> None:
    mailbox.create("Sent")
    sync(account)
    take_lease(TENANT, USER, account.id, "other:1", 60)
    send_once(account)
    assert stored_uids("Sent") == []
    release_lease(TENANT, account.id, "other:1")
    sync(account)

    assert stored_uids("Sent") == [1]


def test_a_provider_that_files_copies_gets_no_second_one(
    provider: Account, mailbox: Mailbox, send_once: Send, smtp: SmtpServer
) -> None:
    send_once(provider)

    assert len(in_sent(mailbox)) == 1


def test_a_copy_that_is_there_already_is_not_joined_by_another(
    provider: Account, mailbox: Mailbox, send_once: Send, smtp: SmtpServer
) -> None:
    # Given that nobody told us that this provider files copies
    with_copies = provider._replace(sent_copies="append")
    rows("UPDATE email_client SET sent_copies = 'append' RETURNING 1")
    send_once(with_copies)

    assert row() == "sent"
    assert len(in_sent(mailbox)) == 1


def test_an_unknown_message_that_is_in_the_sent_folder_was_sent(
    provider: Account, mailbox: Mailbox, send_once: Send, smtp: SmtpServer
) -> None:
    smtp.on("accepted", drop)
    with pytest.raises(DeliveryInterruptedError):
        send_once(provider)
    outgoing = send_once(provider)

    assert outgoing.state == "sent"
    assert outgoing.addresses("accepted") == ["bob@example.net"]
    assert len(smtp.messages) == 1


def test_an_unknown_message_that_is_not_there_waits_for_a_person(
    provider: Account, mailbox: Mailbox, send_once: Send, smtp: SmtpServer
) -> None:
    smtp.on("dot", drop)
    for _ in range(3):  # the provider may be about to file it
        with pytest.raises(DeliveryInterruptedError):
            send_once(provider)
    with pytest.raises(DeliveryUnknownError, match="is not in the Sent folder"):
        send_once(provider)

    assert (row(), smtp.messages) == ("unknown", [])
