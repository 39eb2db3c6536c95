"""UIDs under which a server has other messages than it had, though UIDVALIDITY is the same.

Scripted: no real server can be told to number a folder anew and keep its UIDVALIDITY, or to answer half.
"""

import re
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tasks.engine.delete.messages import delete_expired
from tasks.errors import AnotherMessageError
from tests.conftest import TENANT, USER, Database, register, sync
from tests.integration.delete.conftest import Delete, delete, ids_of
from tests.support.imap_faults import Answer
from tests.support.imap_server import BASIC, CONDSTORE, QRESYNC, ImapServer
from tests.support.mailbox import message
from tests.support.stored import assert_counts_agree, rows, stored_uids

__all__ = ["delete"]

LEVELS = {"nothing": BASIC, "condstore": CONDSTORE, "qresync": QRESYNC}
_MESSAGES = 9


@pytest.fixture(params=LEVELS.values(), ids=LEVELS)
def server(request: pytest.FixtureRequest, database: Database) -> Iterator[ImapServer]:
    with ImapServer(f"{request.param} MOVE UIDPLUS") as server:
        server.inbox.append(*(message(n) for n in range(1, _MESSAGES + 1)))
        yield server


def ids() -> dict[object, object]:
    return dict(rows("SELECT message_id, id FROM email_message"))


def number(server: ImapServer, *messages: int, uidnext: int | None = None) -> None:
    """Have the server hold these messages under the UIDs from 1 up."""
    folder = server.inbox
    folder.uids.clear()
    folder.messages.clear()
    folder.append(*(message(n) for n in messages))
    folder.uidnext = uidnext or len(messages) + 1


def assert_as_on_the_server(server: ImapServer, *messages: int) -> None:
    assert rows("SELECT imap_uid, message_id FROM email_message ORDER BY 1") == [
        (uid, f"{n}@example.org") for uid, n in enumerate(messages, 1)
    ]
    assert_counts_agree()


def test_a_full_sync_sees_another_message_under_a_uid(server: ImapServer) -> None:
    # Given an old message whose UID the server gives to another one
    account = register(server)
    sync(account)
    before = ids()
    server.inbox.messages[2].raw = message(200, body="another")

    sync(account)
    assert ids() == before  # the newest are as they were
    sync(account, full_since=time.time())

    assert_as_on_the_server(server, 1, 200, *range(3, _MESSAGES + 1))
    after = ids()
    assert after.pop("200@example.org") not in before.values()
    assert after.items() <= before.items()
    assert sum(server.bodies.values()) == _MESSAGES + 1


@pytest.mark.parametrize("full", [False, True])
def test_messages_that_are_numbered_anew_keep_their_rows(server: ImapServer, full: bool) -> None:
    account = register(server)
    sync(account)
    before = ids()
    order = (3, 1, 2, 9, 8, 4, 5, 7, 6)
    number(server, *order)

    sync(account, full_since=time.time() if full else None)

    assert_as_on_the_server(server, *order)
    assert ids() == before
    assert sum(server.bodies.values()) == _MESSAGES
    assert sync(account).done == 0


def test_folders_that_are_alike_and_change_names(server: ImapServer) -> None:
    # Given two folders with the same state, which nothing changes but what is in them
    for name, first in (("Alpha", 20), ("Beta", 30)):
        server.add_folder(name).append(*(message(first + n) for n in range(3)))
    account = register(server)
    sync(account)
    before = ids()
    alpha, beta = server.folders[b"Alpha"], server.folders[b"Beta"]
    alpha.messages, beta.messages = beta.messages, alpha.messages

    assert sync(account).total("synced") == 0

    assert ids() == before
    assert rows(
        "SELECT folder.name, min(message_id) FROM email_message JOIN email_folder AS folder ON folder.id = folder_id "
        "WHERE folder.name <> 'INBOX' GROUP BY 1 ORDER BY 1"
    ) == [("Alpha", "30@example.org"), ("Beta", "20@example.org")]


def test_a_folder_that_was_made_anew_in_the_same_second(server: ImapServer) -> None:
    # Given a folder that has the name, the UIDVALIDITY and fewer messages
    account = register(server)
    sync(account)
    before = ids()
    number(server, 100, 2, 101)

    sync(account)

    assert_as_on_the_server(server, 100, 2, 101)
    assert ids()["2@example.org"] == before["2@example.org"]
    # and what comes under a UID that another message had, is not passed over
    server.inbox.append(message(102))
    sync(account)
    assert stored_uids() == [1, 2, 3, 4]


@pytest.mark.parametrize("permanent", [False, True], ids=["into Trash", "for good"])
def test_a_delete_finds_the_message_under_its_uid_now(server: ImapServer, delete: Delete, permanent: bool) -> None:
    server.add_folder("Trash", attributes="\\Trash")
    sync(register(server))
    number(server, 3, 1, 2, 9, 8, 4, 5, 7, 6)

    delete(ids_of(2), permanent=permanent)

    assert server.inbox.uids == [1, 2, 4, 5, 6, 7, 8, 9]
    assert len(server.folders[b"Trash"].uids) == (0 if permanent else 1)
    assert_counts_agree()


def test_what_was_in_trash_for_too_long_is_what_goes(server: ImapServer, database: Database) -> None:
    # Given that the names of Trash and another folder are swapped, which have one UIDVALIDITY
    server.add_folder("Trash", attributes="\\Trash").append(*(message(n) for n in range(21, 24)))
    server.add_folder("Work").append(*(message(n) for n in range(31, 34)))
    account = register(server)
    sync(account)
    rows("WITH aged AS (UPDATE email_message SET filed_at = 'yesterday'::date - 40 RETURNING 1) SELECT * FROM aged")
    trash, work = server.folders[b"Trash"], server.folders[b"Work"]
    trash.messages, work.messages = work.messages, trash.messages

    with suppress(AnotherMessageError):
        delete_expired(TENANT, USER, account.id, "task", 600)

    # Then no message goes that was not in Trash
    kept = [stored.content() for folder in (trash, work) for stored in folder.messages.values()]
    assert {message(n) for n in range(31, 34)} <= set(kept)


def test_what_the_server_does_not_tell_is_left_and_said(server: ImapServer, delete: Delete) -> None:
    # Given a server that says nothing of one message, which is there
    def leave_out(answer: Answer) -> None:
        answer.data = re.sub(rb"\* \d+ FETCH \(UID 4 [^{]*\{\d+\}\r\n[^)]*\)\r\n", b"", answer.data)

    sync(register(server))
    before = ids()
    server.on("UID FETCH .*HEADER.FIELDS", leave_out, times=None)

    with pytest.raises(AnotherMessageError, match=str(before["4@example.org"])):
        delete(ids_of(4, 5), permanent=True)

    # Then the other one is deleted, and this one is there and here
    assert server.inbox.uids == [1, 2, 3, 4, 6, 7, 8, 9]
    assert stored_uids() == [1, 2, 3, 4, 6, 7, 8, 9]


def test_what_the_server_says_to_be_another_message_is_not_deleted(server: ImapServer, delete: Delete) -> None:
    # Given a server that cannot make up its mind
    def say_otherwise(answer: Answer) -> None:
        answer.data = answer.data.replace(b"<4@example.org>", b"<4@example.com>")

    sync(register(server))
    server.on("UID FETCH .*HEADER.FIELDS", say_otherwise, times=None)

    delete(ids_of(4), permanent=True)

    assert server.inbox.uids == stored_uids() == list(range(1, _MESSAGES + 1))


def test_a_check_costs_one_fetch_a_batch(server: ImapServer, delete: Delete) -> None:
    sync(register(server))
    server.received.clear()

    delete(ids_of(*range(1, 8)), permanent=True)

    assert len(server.commands("UID FETCH")) == 1


def test_flags_that_changed_are_not_missed_by_a_sync_that_ended_after_the_new_numbers(
    server: ImapServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = register(server)
    sync(account)
    number(server, *range(2, _MESSAGES + 1))
    server.inbox.uidvalidity = 2
    server.inbox.set_flags(3, r"\Seen")
    with monkeypatch.context() as patched:
        patched.setattr("tasks.engine.sync.folder.compare_uids", lambda *_: _interrupt())
        with pytest.raises(KeyboardInterrupt):
            sync(account)

    sync(account)

    assert rows("SELECT imap_uid FROM email_message WHERE is_read") == [(3,)]
    assert_as_on_the_server(server, *range(2, _MESSAGES + 1))


def _interrupt() -> None:
    raise KeyboardInterrupt


def test_copies_that_differ_in_fractions_of_a_second_get_numbers_of_their_own(server: ImapServer) -> None:
    server.inbox.append(message(1), message(1))
    account = register(server)
    sync(account)
    rows("UPDATE email_message SET received_at = received_at + interval '0.3 seconds' WHERE imap_uid = 1 RETURNING 1")
    before = ids_by_uid()

    server.inbox.uidvalidity = 2
    sync(account)

    assert ids_by_uid() == before


def test_messages_outside_of_a_window_are_set_apart_more_than_once(server: ImapServer) -> None:
    # Given a window of which messages have slid out, and UIDs that are given to others again and again
    account = register(server)
    number(server, *range(1, 31))
    server.inbox.window = 30
    sync(account)
    server.inbox.append(*(message(n) for n in range(31, 36)))
    sync(account)
    for first in (101, 201, 301):
        for uid in server.inbox.uids:
            server.inbox.messages[uid].raw = message(first + uid)

        sync(account, full_since=time.time())

        shown = server.inbox.uids[-30:]
        stored = rows("SELECT imap_uid, message_id FROM email_message WHERE imap_uid > 5 ORDER BY 1")
        assert stored == [(uid, f"{first + uid}@example.org") for uid in shown]
    assert_counts_agree()


def test_a_hidden_message_without_a_number_is_left(server: ImapServer, delete: Delete) -> None:
    # Given messages outside of a window, whose UIDs are other messages' now
    account = register(server)
    number(server, *range(1, 31))
    server.inbox.window = 30
    sync(account)
    server.inbox.append(*(message(n) for n in range(31, 36)))
    sync(account)
    for uid in server.inbox.uids:
        server.inbox.messages[uid].raw = message(100 + uid)
    sync(account, full_since=time.time())
    (hidden,) = rows("SELECT id FROM email_message WHERE message_id = '35@example.org'")

    with pytest.raises(AnotherMessageError):
        delete([str(hidden[0])], permanent=True)

    assert len(server.inbox.uids) == 35
    assert rows("SELECT count(*) FROM email_message WHERE message_id = '35@example.org'") == [(1,)]


def ids_by_uid() -> list[tuple[object, ...]]:
    return rows("SELECT imap_uid, id FROM email_message ORDER BY 1")
