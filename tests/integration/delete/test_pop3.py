"""delete_emails of POP3 accounts: Trash is ours alone, and only what is deleted for good is deleted on the server."""

import time
from collections.abc import Iterator

import pytest

from native.dovecot import Dovecot
from tasks.errors import ProtocolError, TransientError
from tasks.storage.accounts.rows import Account
from tests.conftest import Database, register, sync
from tests.integration.delete.conftest import Delete, ids_of
from tests.support.imap_faults import Answer, drop
from tests.support.mailbox import Mailbox, message
from tests.support.pop3_server import EVERYTHING, Pop3Server
from tests.support.stored import assert_counts_agree, column, rows


@pytest.fixture
def mailbox(dovecot: Dovecot, request: pytest.FixtureRequest) -> Mailbox:
    return Mailbox(dovecot.host, dovecot.port, f"pop3-{request.node.name}", dovecot.password)


@pytest.fixture
def synced(maildrop: Account, mailbox: Mailbox) -> Account:
    mailbox.append(message(n) for n in range(1, 6))
    sync(maildrop)
    return maildrop


def stored(folder: str) -> list[object]:
    return column(
        "SELECT message_id FROM email_message JOIN email_folder AS folder ON folder.id = folder_id "
        "WHERE folder.name = :folder ORDER BY message_id",
        folder=folder,
    )


def test_into_trash_and_out_of_it(synced: Account, mailbox: Mailbox, delete: Delete) -> None:
    ids = ids_of(2, 3)

    delete(ids)

    # Then only we know of it, and a sync brings nothing back
    assert mailbox.uids() == [1, 2, 3, 4, 5]
    assert sync(synced).total("synced") == 0
    assert stored("Trash") == ["2@example.org", "3@example.org"]
    assert rows("SELECT type, total_count FROM email_folder ORDER BY type") == [("inbox", 3), ("trash", 2)]
    assert_counts_agree()

    delete(ids, permanent=True, task="another")

    assert mailbox.uids() == [1, 4, 5]
    assert sync(synced).total("synced") == 0
    assert stored("Trash") == []
    assert_counts_agree()


def test_for_good_also_what_is_gone_from_the_server(synced: Account, mailbox: Mailbox, delete: Delete) -> None:
    ids = ids_of(1, 2)
    mailbox.expunge("1")
    delete(ids, permanent=True)
    assert delete(ids, permanent=True) == 0  # delivered again
    assert mailbox.uids() == [3, 4, 5]
    assert stored("INBOX") == ["3@example.org", "4@example.org", "5@example.org"]


@pytest.fixture
def server(database: Database) -> Iterator[Pop3Server]:
    with Pop3Server() as server:
        server.messages = {f"uid-{n}": message(n) for n in range(1, 6)}
        yield server


def test_a_connection_that_breaks_deletes_nothing_here(server: Pop3Server, delete: Delete) -> None:
    sync(register(server, protocol="pop3"))
    server.on("QUIT", drop)
    with pytest.raises(TransientError):
        delete(ids_of(2), permanent=True)
    assert len(server.messages) == len(stored("INBOX")) == 5

    delete(ids_of(2), permanent=True)

    assert "uid-2" not in server.messages
    assert len(stored("INBOX")) == 4


def test_what_the_server_refuses_to_delete_stays_here(server: Pop3Server, delete: Delete) -> None:
    def refuse(answer: Answer) -> None:
        answer.data = b"-ERR [SYS/PERM] read-only\r\n"

    sync(register(server, protocol="pop3"))
    ids = ids_of(2, 3)
    server.on("DELE 2$", refuse)
    with pytest.raises(ProtocolError, match="read-only"):
        delete(ids, permanent=True)
    assert stored("INBOX") == [f"{n}@example.org" for n in (1, 2, 4, 5)]

    # Tried again, as the task does, it comes to the end
    assert delete(ids, permanent=True) == 0
    assert set(server.messages) == {"uid-1", "uid-4", "uid-5"}


@pytest.mark.parametrize("capabilities", [EVERYTHING, EVERYTHING.replace("TOP ", "")], ids=["TOP", "no TOP"])
def test_a_unique_id_that_is_another_messages_now(server: Pop3Server, delete: Delete, capabilities: str) -> None:
    # Given a server that numbers its messages anew, as another client has deleted the first
    server.capabilities = capabilities
    server.messages = {str(n): message(n, body="x" * n) for n in range(1, 6)}
    sync(register(server, protocol="pop3"))
    server.messages = {str(n): message(n + 1, body="x" * (n + 1)) for n in range(1, 5)}
    kept = dict(server.messages)

    # When messages are deleted that it has under other unique-ids, or no more
    delete(ids_of(1, 3), permanent=True)

    # Then no other is deleted in their place
    assert server.messages == kept


def test_a_unique_id_that_is_another_messages_is_not_what_was_kept_long_enough(server: Pop3Server) -> None:
    account = register(server, protocol="pop3", pop3_keep_days=1)
    sync(account)
    rows(
        "WITH aged AS (UPDATE email_message SET filed_at = now() - interval '2 days' RETURNING 1) SELECT * FROM aged"
    )
    server.messages["uid-2"] = message(20)

    sync(account)

    assert set(server.messages) == {"uid-2"}


@pytest.mark.parametrize("capabilities", [EVERYTHING, EVERYTHING.replace("TOP ", "")], ids=["TOP", "no TOP"])
def test_a_message_under_the_unique_id_of_another_is_fetched_by_a_full_sync(
    server: Pop3Server, capabilities: str
) -> None:
    # Given a server that gives a unique-id to another message
    server.capabilities = capabilities
    account = register(server, protocol="pop3")
    sync(account)
    before = rows("SELECT message_id, id FROM email_message ORDER BY 1")
    server.messages["uid-2"] = message(20, body="another one")

    assert sync(account).total("synced") == 0
    tally = sync(account, full_since=time.time())

    # Then it is stored beside the one that is gone, once
    assert tally.total("synced") == 1
    found = rows("SELECT message_id, id FROM email_message ORDER BY 1")
    assert set(before) < set(found)
    assert column("SELECT message_id FROM email_message WHERE uidl = 'uid-2'") == ["20@example.org"]
    assert sync(account, full_since=time.time()).total("synced") == 0
    assert_counts_agree()


def test_a_size_that_is_no_messages_size_hinders_no_delete(server: Pop3Server, delete: Delete) -> None:
    # Given messages without a Message-ID, on a server that counts line ends once
    def count_otherwise(answer: Answer) -> None:
        answer.data = b"+OK\r\n" + b"".join(b"%d 9\r\n" % n for n in range(1, len(server.messages) + 1)) + b".\r\n"

    server.messages = {f"uid-{n}": b"Subject: %d\r\n\r\nHello.\r\n" % n for n in range(1, 4)}
    server.on("LIST", count_otherwise, times=None)
    sync(register(server, protocol="pop3"))

    delete([str(id_) for id_ in column("SELECT id FROM email_message WHERE subject = '2'")], permanent=True)

    assert set(server.messages) == {"uid-1", "uid-3"}


def test_a_server_without_unique_ids(server: Pop3Server, delete: Delete) -> None:
    server.capabilities = EVERYTHING.replace("UIDL ", "")
    account = register(server, protocol="pop3")
    sync(account)
    del server.messages["uid-1"]  # so that all numbers change

    delete(ids_of(3), permanent=True)

    assert set(server.messages) == {"uid-2", "uid-4", "uid-5"}
    assert sync(account).total("synced") == 0
