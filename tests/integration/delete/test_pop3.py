"""delete_emails of POP3 accounts: Trash is ours alone, and only what is deleted for good is deleted on the server."""

from collections.abc import Iterator

import pytest

from native.dovecot import Dovecot
from tasks.errors import ProtocolError, TransientError
from tasks.storage.accounts import Account
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


def test_a_server_without_unique_ids(server: Pop3Server, delete: Delete) -> None:
    server.capabilities = EVERYTHING.replace("UIDL ", "")
    account = register(server, protocol="pop3")
    sync(account)
    del server.messages["uid-1"]  # so that all numbers change

    delete(ids_of(3), permanent=True)

    assert set(server.messages) == {"uid-2", "uid-4", "uid-5"}
    assert sync(account).total("synced") == 0
