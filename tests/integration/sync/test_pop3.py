"""POP3 on a real Dovecot: what is on the server is stored once, whatever happens to it there afterwards."""

from collections.abc import Callable

import pytest

from native.dovecot import Dovecot
from tasks.engine.probe import probe
from tasks.errors import AuthenticationFailedError, NotFoundError
from tasks.storage.accounts.rows import Account, change_password, find_account
from tests.conftest import TENANT, Database, register, sync
from tests.support.courier import Courier
from tests.support.mailbox import Mailbox, message
from tests.support.maildir import fill
from tests.support.stored import assert_counts_agree, column, quarantine, rows


def stored() -> list[object]:
    return column("SELECT message_id FROM email_message ORDER BY length(message_id), message_id")


def ids(*numbers: int) -> list[str]:
    return [f"{number}@example.org" for number in numbers]


def test_a_maildrop_is_stored_once(maildrop: Account, mailbox: Mailbox) -> None:
    mailbox.append(message(n) for n in range(1, 31))

    first, second = sync(maildrop), sync(maildrop)

    assert first.total("synced") == 30
    assert second.total("synced") == 0
    assert stored() == ids(*range(1, 31))
    assert rows("SELECT path, type, total_count, unread_count FROM email_folder") == [("INBOX", "inbox", 30, 30)]
    assert find_account(TENANT, maildrop.id).last_sync_at is not None


def test_messages_are_known_by_unique_id_and_not_by_number(maildrop: Account, mailbox: Mailbox) -> None:
    # Given stored messages, and another client that removes the first of them, so that all numbers change
    mailbox.append(message(n) for n in range(1, 6))
    sync(maildrop)
    mailbox.expunge("1:2")
    mailbox.append([message(6)])

    tally = sync(maildrop)

    # Then only the new one is fetched, and what is gone from the server stays here
    assert tally.total("synced") == 1
    assert stored() == ids(1, 2, 3, 4, 5, 6)
    assert column("SELECT count(*) FROM email_message WHERE uidl IS NULL OR imap_uid IS NOT NULL") == [0]
    assert_counts_agree()


def test_two_messages_without_a_message_id_are_two_messages(maildrop: Account, mailbox: Mailbox) -> None:
    twin = message(1).replace(b"Message-ID: <1@example.org>\r\n", b"")
    mailbox.append([twin, twin])

    assert sync(maildrop).total("synced") == 2


def test_any_bytes_arrive_as_they_are(maildrop: Account, mailbox: Mailbox, dovecot: Dovecot) -> None:
    # Given lines that begin with dots, a line longer than the protocol allows, NULs, and no end of line at the end
    body = b".\r\n..\r\n.hidden\r\n" + b"x" * 300_000 + b"\r\nnul: \0\r\nend"
    fields = (
        b"Message-ID: <odd@example.org>",
        b"Date: Fri, 99 Foo 2026",
        b"Content-Type: text/plain; charset=cp-850",
    )
    fill(dovecot, mailbox, [b"\r\n".join((*fields, b"", body))])

    sync(maildrop)

    ((text, sent_at),) = rows("SELECT text_body, sent_at FROM email_message")
    assert str(text).splitlines()[:3] == [".", "..", ".hidden"]
    assert "x" * 300_000 in str(text)
    assert str(text).rstrip().endswith("end")
    assert sent_at is None


def test_received_at_is_what_the_last_server_says(maildrop: Account, mailbox: Mailbox) -> None:
    mailbox.append(
        [
            b"Received: from a by b;\r\n Tue, 03 Mar 2026 11:00:00 +0100\r\n" + message(1),
            message(2),
        ]
    )

    sync(maildrop)

    assert column("SELECT received_at::text FROM email_message ORDER BY received_at DESC") == [
        "2026-03-03 10:00:00+00",
        "2026-03-02 10:00:00+00",
    ]


def test_a_message_that_is_too_large_is_not_fetched(
    maildrop: Account, mailbox: Mailbox, environment: Callable[..., None]
) -> None:
    environment(SYNC_MAX_MESSAGE_BYTES="65536")
    mailbox.append([message(1), message(2, body="x" * 70_000), message(3)])

    tally = sync(maildrop)

    assert (tally.total("synced"), tally.total("quarantined")) == (2, 1)
    assert column("SELECT reason FROM raw_quarantine") == ["too_large"]
    assert sync(maildrop).total("quarantined") == 0


def test_a_full_sync_tries_again_what_was_set_aside(
    maildrop: Account, mailbox: Mailbox, environment: Callable[..., None]
) -> None:
    environment(SYNC_MAX_MESSAGE_BYTES="65536")
    mailbox.append([message(1, body="x" * 70_000)])
    sync(maildrop)
    environment(SYNC_MAX_MESSAGE_BYTES="1000000")

    assert sync(maildrop, full_since=4_102_444_800).total("synced") == 1
    assert quarantine() == {}


def test_nothing_is_deleted_from_the_server_unless_the_account_says_so(maildrop: Account, mailbox: Mailbox) -> None:
    mailbox.append([message(1)])
    sync(maildrop)
    sync(maildrop)
    assert mailbox.uids() == [1]


def test_messages_leave_the_server_once_they_are_stored(
    database: Database, dovecot: Dovecot, mailbox: Mailbox, environment: Callable[..., None]
) -> None:
    # Given an account that keeps nothing there, and a message that cannot be stored
    environment(SYNC_MAX_MESSAGE_BYTES="65536")
    account = register(mailbox, protocol="pop3", port=dovecot.pop3_port, pop3_keep_days=0)
    mailbox.append([message(1), message(2, body="x" * 70_000), message(3)])

    sync(account)

    # Then what is stored is gone there, and what was set aside is not
    assert mailbox.uids() == [2]
    assert stored() == ids(1, 3)
    assert sync(account).total("synced") == 0


def test_courier_marks_as_read_what_is_fetched(database: Database, courier: Courier) -> None:
    # As docs/accounts.md says: nothing that a client does keeps it from that
    mailbox = Mailbox(courier.host, courier.port, "ada", courier.password, above="INBOX.")
    mailbox.append([message(1), message(2)])

    assert sync(register(mailbox, protocol="pop3", port=courier.pop3_port)).total("synced") == 2

    with mailbox.client() as client:
        client.select("INBOX", readonly=True)
        assert len(client.search(None, "SEEN")[1][0].split()) == 2


def test_messages_leave_the_server_after_the_days_they_are_kept(
    database: Database, dovecot: Dovecot, mailbox: Mailbox
) -> None:
    account = register(mailbox, protocol="pop3", port=dovecot.pop3_port, pop3_keep_days=7)
    mailbox.append([message(1), message(2)])
    sync(account)
    rows(
        "WITH aged AS (UPDATE email_message SET filed_at = now() - interval '7 days' "
        "WHERE message_id = '1@example.org' RETURNING id) SELECT id FROM aged"
    )

    sync(account)

    assert mailbox.uids() == [2]
    assert stored() == ids(1, 2)


def test_a_wrong_password_pauses_the_account_and_a_right_one_ends_it(maildrop: Account, mailbox: Mailbox) -> None:
    right = mailbox.password
    change_password(maildrop, "wrong")
    account = find_account(TENANT, maildrop.id)
    with pytest.raises(AuthenticationFailedError):
        sync(account)
    assert find_account(TENANT, maildrop.id).paused_at is not None

    change_password(account, right)
    sync(find_account(TENANT, maildrop.id))
    assert find_account(TENANT, maildrop.id).last_error is None


def test_an_account_is_tried(maildrop: Account, mailbox: Mailbox) -> None:
    mailbox.append([message(1), message(2)])
    seen = probe(maildrop)
    assert (seen.folders, seen.messages) == (1, 2)
    assert {"UIDL", "TOP", "PIPELINING"} <= set(seen.capabilities)


def test_one_folder_is_synced_and_a_strange_one_not_found(maildrop: Account, mailbox: Mailbox) -> None:
    mailbox.append([message(1)])
    sync(maildrop)
    mailbox.append([message(2)])
    inbox = str(column("SELECT id FROM email_folder")[0])

    assert sync(maildrop, folder_id=inbox).total("synced") == 1
    with pytest.raises(NotFoundError):
        sync(maildrop, folder_id="nobodys")
