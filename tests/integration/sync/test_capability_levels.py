"""The same mailbox life gives the same rows whatever the server offers: scripted, as no server offers all levels."""

import copy
from collections.abc import Iterator

import psycopg2
import pytest

from native.postgres import libpq
from tests.conftest import Database, register, sync
from tests.support.imap_faults import before
from tests.support.imap_server import BASIC, CONDSTORE, QRESYNC, ImapServer
from tests.support.mailbox import message
from tests.support.stored import assert_counts_agree, rows, stored_uids

LEVELS = {"nothing": BASIC, "condstore": CONDSTORE, "esearch": f"{BASIC} ESEARCH", "qresync": QRESYNC}


@pytest.fixture(params=LEVELS.values(), ids=LEVELS)
def server(request: pytest.FixtureRequest, database: Database) -> Iterator[ImapServer]:
    with ImapServer(request.param) as server:
        yield server


def state() -> list[tuple[object, ...]]:
    return rows(
        "SELECT folder.name, imap_uid, message_id, is_read, is_starred, labels FROM email_message "
        "JOIN email_folder AS folder ON folder.id = folder_id ORDER BY folder.name, imap_uid"
    )


def test_flags_removals_and_arrivals_are_reflected(server: ImapServer) -> None:
    # Given twenty messages that are synced
    server.inbox.append(*(message(n) for n in range(1, 21)))
    account = register(server)
    sync(account)
    ids = dict(rows("SELECT imap_uid, id FROM email_message"))

    # When flags change, messages go, and others come
    server.inbox.set_flags(3, "\\Seen \\Flagged")
    server.inbox.set_flags(20, "\\Seen Projekt")
    server.inbox.expunge(1, 7, 8, 19)
    server.inbox.append(message(21), flags="\\Seen")
    sync(account)

    # Then the rows are the server's, and those that stayed are the same rows
    assert stored_uids() == [2, 3, 4, 5, 6, *range(9, 19), 20, 21]
    read = [(uid, starred, labels) for _, uid, _, is_read, starred, labels in state() if is_read]
    assert read == [(3, True, []), (20, False, ["Projekt"]), (21, False, [])]
    kept = dict(rows("SELECT imap_uid, id FROM email_message WHERE imap_uid <= 20"))
    assert kept.items() <= ids.items()
    assert_counts_agree()
    # and no body was sent twice
    assert set(server.bodies.values()) == {1}


def test_a_server_restored_from_a_backup_is_believed(server: ImapServer) -> None:
    server.inbox.append(*(message(n) for n in range(1, 4)))
    account = register(server)
    sync(account)
    backup = copy.deepcopy(vars(server.inbox))
    server.inbox.set_flags(2, "\\Seen")
    sync(account)

    # Its mod-sequences are lower than those we know
    vars(server.inbox).update(backup)
    sync(account)

    assert [is_read for _, _, _, is_read, _, _ in state()] == [False, False, False]
    assert_counts_agree()


def test_a_sync_without_changes_fetches_no_body_and_changes_nothing(server: ImapServer) -> None:
    server.inbox.append(*(message(n) for n in range(1, 6)))
    account = register(server)
    sync(account)
    before_sync = state()

    tally = sync(account)

    assert (tally.total("synced"), tally.total("updated"), tally.total("deleted")) == (0, 0, 0)
    assert state() == before_sync
    assert sum(server.bodies.values()) == 5


def test_the_last_message_is_not_stored_twice_because_ranges_to_the_star_are_inclusive(server: ImapServer) -> None:
    # Given a folder whose UIDNEXT is above its last message, so that `n:*` names a message below n
    server.inbox.append(*(message(n) for n in range(1, 4)))
    account = register(server)
    sync(account)
    server.inbox.append(message(4))
    server.inbox.expunge(4)
    server.inbox.uidnext = 9

    sync(account)

    assert stored_uids() == [1, 2, 3]


def test_what_the_server_says_unasked_does_no_harm(server: ImapServer) -> None:
    # Given a server that tells of flags, arrivals and removals in the middle of every answer
    server.inbox.append(*(message(n) for n in range(1, 9)))
    for command in ("UID FETCH", "UID SEARCH"):
        server.on(command, before(b"* 9 EXISTS\r\n* 2 FETCH (FLAGS (\\Seen))\r\n* 8 EXPUNGE\r\n"), times=None)
    account = register(server)

    sync(account)

    assert stored_uids() == list(range(1, 9))
    assert rows("SELECT count(*) FROM email_message WHERE is_read") == [(0,)]


def test_a_changed_uidvalidity_keeps_the_rows_and_downloads_no_body(server: ImapServer) -> None:
    # Given messages with and without a Message-ID, two of them the same mail twice
    same = message(1)
    without = [f"Subject: no id {n}\r\n\r\n{'x' * n}\r\n".encode() for n in (1, 2)]
    server.inbox.append(same, same, message(2), *without)
    account = register(server)
    sync(account)
    ids = set(rows("SELECT id, subject FROM email_message"))

    # When the folder is numbered anew, one message gone
    old = server.inbox
    new = server.add_folder("INBOX", uidvalidity=77)
    for offset, uid in enumerate((5, 4, 2, 1)):
        new.append(old.messages[uid].content(), flags="\\Seen", uid=100 + 10 * offset)
    server.bodies.clear()
    sync(account)

    # Then rows and their ids stayed, with new UIDs and flags, and no body was sent
    assert stored_uids() == [100, 110, 120, 130]
    assert set(rows("SELECT id, subject FROM email_message")) < ids
    assert rows("SELECT count(*) FROM email_message WHERE is_read") == [(4,)]
    assert rows("SELECT DISTINCT uidvalidity FROM email_message") == [(77,)]
    assert server.bodies == {}
    assert_counts_agree()


def test_a_full_sync_heals_what_was_tampered_with(server: ImapServer, database: Database) -> None:
    # Given rows that are gone and flags that are wrong
    server.inbox.append(*(message(n) for n in range(1, 6)), flags="\\Seen")
    account = register(server)
    sync(account)
    healthy = state()
    with_owner(
        database,
        "DELETE FROM email_message WHERE imap_uid IN (2, 5)",
        "UPDATE email_message SET is_read = false, labels = '{wrong}' WHERE imap_uid = 3",
        "UPDATE email_folder SET total_count = 99, unread_count = 7",
    )

    sync(account, full_since=4_000_000_000)

    assert state() == healthy
    assert_counts_agree()


def with_owner(database: Database, *statements: str) -> None:
    connection = psycopg2.connect(libpq(database.owner_url))
    with connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
    connection.close()


def test_the_order_of_the_items_in_an_answer_does_not_matter(server: ImapServer) -> None:
    server.arrange = lambda items: items[::-1]
    server.inbox.append(*(message(n) for n in range(1, 6)), flags="\\Flagged")

    sync(register(server))

    assert [(uid, starred) for _, uid, _, _, starred, _ in state()] == [(n, True) for n in range(1, 6)]
