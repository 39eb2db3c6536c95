"""Deleting on a server whose COPYUID cannot be true, or that refuses what it offers: no row is lost or points astray.

Scripted, since no server of today answers so.
"""

from collections.abc import Iterator

import pytest

from tasks.storage.accounts.rows import Account, find_account
from tests.conftest import TENANT, Database, register, sync
from tests.integration.delete.conftest import Delete, ids_of
from tests.support.imap_faults import rewrite
from tests.support.imap_server import QRESYNC, ImapServer
from tests.support.mailbox import message
from tests.support.stored import assert_counts_agree, column, rows, stored_uids

MOVE = f"{QRESYNC} MOVE"


@pytest.fixture(params=[MOVE, QRESYNC], ids=["MOVE", "COPY"])
def server(request: pytest.FixtureRequest, database: Database) -> Iterator[ImapServer]:
    with ImapServer(request.param) as server:
        server.inbox.append(*(message(n) for n in range(1, 6)))
        trash = server.add_folder("Trash", attributes="\\Trash", uidvalidity=77)
        trash.append(message(8), message(9))
        yield server


@pytest.fixture
def account(server: ImapServer) -> Account:
    account = register(server)
    sync(account)
    return account


COPYUID = rb"\[COPYUID [^\]\r]*\]"
SAID = {
    "nothing": b"",
    "malformed": b"[COPYUID 77 x]",
    "shorter than asked": b"[COPYUID 77 1 3]",
    "larger than asked": b"[COPYUID 77 1:4 3:6]",
    "of others": b"[COPYUID 77 4:5 3:4]",
    "of validity 0": b"[COPYUID 0 1:2 3:4]",
    "of the source's validity": b"[COPYUID 1 1:2 3:4]",
    "of UIDs that others have": b"[COPYUID 77 1:2 1:2]",
    "of one UID for two": b"[COPYUID 77 1:2 3,3]",
    "followed by a bracket": b"[COPYUID 77 1:2 3:4] moved to [Trash]",
    "in lower case": b"[copyuid 77 1:2 3:4]",
}


@pytest.mark.parametrize("said", SAID.values(), ids=SAID)
@pytest.mark.parametrize("is_known", [True, False], ids=["Trash synced", "Trash not synced"])
def test_rows_follow_their_messages_whatever_copyuid_says(
    server: ImapServer, delete: Delete, said: bytes, is_known: bool
) -> None:
    trash = server.folders.pop(b"Trash")
    account = register(server)
    server.folders[b"Trash"] = trash
    if is_known:
        sync(account)
    else:
        trash.attributes += " \\Noselect"
        sync(account)
        trash.attributes = "\\Trash"
        sync(account, folder_id=str(column("SELECT id FROM email_folder WHERE name = 'INBOX'")[0]))
    server.on("UID (MOVE|COPY)", rewrite(COPYUID, said), times=None)
    ids = ids_of(1, 2)

    assert delete(ids) == 0

    assert server.inbox.uids == [3, 4, 5]
    assert trash.uids == [1, 2, 3, 4]
    sync(account)
    assert stored_uids() == [3, 4, 5]
    assert stored_uids("Trash") == [1, 2, 3, 4]
    assert rows("SELECT imap_uid, message_id FROM email_message WHERE uidvalidity = 77 ORDER BY 1") == [
        (1, "8@example.org"), (2, "9@example.org"), (3, "1@example.org"), (4, "2@example.org"),
    ]  # fmt: skip
    assert ids_of(1, 2) == ids
    assert_counts_agree()


def test_a_move_that_is_offered_and_refused_is_a_copy(server: ImapServer, account: Account, delete: Delete) -> None:
    rule = server.decline("UID MOVE", "BAD unknown command")
    ids = ids_of(1, 2)

    assert delete(ids) == 0
    assert delete(ids_of(3)) == 0

    assert server.inbox.uids == [4, 5]
    assert stored_uids("Trash") == [1, 2, 3, 4, 5]
    assert ids_of(1, 2) == ids
    assert rule.hits == ("MOVE" in server.capabilities)
    assert list(find_account(TENANT, account.id).refused_extensions) == (["MOVE"] if rule.hits else [])


def test_a_uid_expunge_that_is_offered_and_refused_leaves_messages_marked(
    server: ImapServer, account: Account, delete: Delete
) -> None:
    rule = server.decline("UID EXPUNGE", "BAD unknown command")

    assert delete(ids_of(1, 2), permanent=True) == 2
    assert delete(ids_of(3), permanent=True) == 1

    assert server.inbox.uids == [1, 2, 3, 4, 5]
    assert rows("SELECT count(*) FROM email_message WHERE is_deleted") == [(3,)]
    assert rule.hits == 1
    sync(account)
    assert stored_uids() == [1, 2, 3, 4, 5]
