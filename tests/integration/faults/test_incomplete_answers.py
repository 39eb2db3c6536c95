"""Servers that tell of some of their messages only: limits a command (RFC 9738), windows, folders left out of LIST.

Nothing is removed on the word of such an answer, and nothing is missing in silence. Scripted: no real server has all
of these habits.
"""

import time
from collections.abc import Callable, Iterator

import pytest

from tasks.engine.run import Tally
from tasks.storage.accounts.rows import Account, find_account
from tests.conftest import TENANT, Database, register, sync
from tests.support.imap_faults import refuse, rewrite
from tests.support.imap_server import BASIC, CONDSTORE, QRESYNC, ImapServer
from tests.support.mailbox import message
from tests.support.stored import assert_counts_agree, column, rows, stored_uids

ALL = list(range(1, 31))
LEVELS = {"basic": BASIC, "condstore": CONDSTORE, "esearch": f"{BASIC} ESEARCH", "qresync": QRESYNC}


@pytest.fixture(params=LEVELS.values(), ids=LEVELS)
def server(
    request: pytest.FixtureRequest, database: Database, environment: Callable[..., None]
) -> Iterator[ImapServer]:
    environment(SYNC_BATCH_SIZE="5", MAIL_TIMEOUT="5")
    with ImapServer(request.param) as server:
        server.inbox.append(*(message(n) for n in ALL))
        yield server


def fully(account: Account) -> Tally:
    return sync(account, full_since=time.time() + 1)


def standing() -> tuple[object, ...]:
    """What the server has, what is hidden and missing, and why."""
    [row] = rows(
        "SELECT server_count, hidden_count, missing_count, missing_reason FROM email_folder WHERE name = 'INBOX'"
    )
    return row


@pytest.mark.parametrize("told", ["tagged", "untagged", "silent"])
@pytest.mark.parametrize("limit", [1, 7, 10])
def test_a_limit_of_messages_a_command_limits_no_mailbox(server: ImapServer, limit: int, told: str) -> None:
    server.message_limit, server.tells_limit = limit, told
    account = register(server)

    tally = sync(account)

    assert stored_uids() == ALL
    assert tally.incomplete == []
    assert set(server.bodies.values()) == {1}
    # Later changes come through the same limit
    server.inbox.append(*(message(n) for n in range(31, 51)))
    for uid in (2, 15, 40):
        server.inbox.set_flags(uid, "\\Seen")
    server.inbox.expunge(1, 20)
    assert sync(account).incomplete == []
    assert fully(account).incomplete == []
    assert stored_uids() == [uid for uid in range(1, 51) if uid not in (1, 20)]
    if told != "silent" or "CONDSTORE" not in server.capabilities:  # else nothing tells that there are more changes
        assert column("SELECT imap_uid FROM email_message WHERE is_read ORDER BY imap_uid") == [2, 15, 40]
    assert_counts_agree()


def test_a_search_that_names_some_of_the_messages_however_it_is_asked(server: ImapServer) -> None:
    # Given a server that finds the newest ten, and gives no others either
    server.inbox.window, server.inbox.exists = 10, 30
    account = register(server)

    tally = sync(account)

    # Then what it gives is here, and that it is not all is said
    assert stored_uids() == ALL[-10:]
    assert [(folder.name, folder.missing) for folder in tally.incomplete] == [("INBOX", 20)]
    assert standing() == (30, 0, 20, "search")
    shown = find_account(TENANT, account.id)
    assert (shown.last_error_code, shown.paused_at) == ("mailbox_incomplete", None)
    assert "INBOX: 20 of 30 missing" in (shown.last_error or "")

    # When it slides with what arrives, nothing is removed
    server.inbox.append(message(31))
    server.inbox.exists = 31
    for again in (sync, sync, fully, sync):
        assert again(account).total("deleted") == 0
    assert stored_uids() == [*ALL[-10:], 31]

    # and when the server is well again, all is here, and the account as well
    server.inbox.window = None
    fully(account)
    assert stored_uids() == [*ALL, 31]
    assert standing() == (31, 0, 0, None)
    assert find_account(TENANT, account.id).last_error is None


@pytest.mark.parametrize("beyond", [False, True], ids=["gives nothing beyond", "gives what is beyond"])
def test_what_slides_out_of_a_window_is_kept(server: ImapServer, *, beyond: bool) -> None:
    # Given a folder that shows its newest thirty messages, and says that there are thirty
    server.inbox.window, server.inbox.answers_beyond = 30, beyond
    account = register(server)
    sync(account)
    assert standing() == (30, 0, 0, None)

    # When it slides by one, by some, with a full sync, and without any arrival
    expected = list(ALL)
    for number, (arrivals, how) in enumerate(
        [(1, sync), (1, sync), (3, sync), (2, fully), (0, sync), (0, fully), (29, sync)]
    ):
        for _ in range(arrivals):
            expected.append(expected[-1] + 1)
            server.inbox.append(message(expected[-1]))
        tally = how(account)
        # Then all that was ever there is here, without any loss, and that there may be more is said
        assert stored_uids() == expected, number
        assert tally.total("deleted") == 0
        assert standing() == (30, len(expected) - 30, 0, "window")
        assert "newest" in tally.incomplete[0].why
    assert_counts_agree()
    assert set(server.bodies.values()) == {1}


def test_what_is_removed_inside_of_a_window_is_gone(server: ImapServer) -> None:
    server.inbox.window = 30
    account = register(server)
    sync(account)
    server.inbox.append(message(31), message(32), message(33))
    sync(account)
    assert standing()[1] == 3

    # When messages in the middle are removed, the window shows older ones again
    server.inbox.expunge(10, 20)
    sync(account)

    assert stored_uids() == [uid for uid in range(1, 34) if uid not in (10, 20)]
    assert standing() == (30, 1, 0, "window")


def test_a_window_that_fills_up_misses_nothing(server: ImapServer) -> None:
    server.inbox.window = 40
    account = register(server)
    sync(account)
    server.inbox.append(*(message(n) for n in range(31, 46)))

    tally = sync(account)

    # All of them were seen before the window was full: there are no others
    assert stored_uids() == list(range(1, 46))
    assert standing() == (40, 5, 0, None)
    assert tally.incomplete == []


def test_what_slid_through_a_window_unseen_may_be_missing(server: ImapServer) -> None:
    server.inbox.window = 40
    account = register(server)
    sync(account)
    server.inbox.append(*(message(n) for n in range(31, 91)))

    tally = sync(account)

    assert stored_uids() == [*ALL, *range(51, 91)]
    assert standing() == (40, 30, 0, "window")
    assert tally.incomplete


def test_the_oldest_message_is_gone_when_the_number_of_messages_says_so(server: ImapServer) -> None:
    # Given a folder without a window, whose oldest message went while another one came
    account = register(server)
    sync(account)
    server.inbox.expunge(1)
    server.inbox.append(message(31))
    sync(account)
    by_name = "QRESYNC" in server.capabilities
    assert stored_uids() == ([*ALL[1:], 31] if by_name else [*ALL, 31]), "as from a window of thirty"

    # When more arrives than such a window could show
    server.inbox.append(message(32))
    tally = sync(account)

    assert stored_uids() == list(range(2, 33))
    assert tally.incomplete == []
    assert standing() == (31, 0, 0, None)
    assert_counts_agree()


def test_a_window_that_is_not_refilled_at_once_keeps_what_it_hides(server: ImapServer) -> None:
    server.inbox.window = 30
    account = register(server)
    sync(account)
    server.inbox.append(message(31), message(32))
    sync(account)

    server.inbox.expunge(15)
    server.inbox.window = 29
    sync(account)
    assert stored_uids() == [uid for uid in range(1, 33) if uid != 15]

    server.inbox.window = 30
    sync(account)
    assert stored_uids() == [uid for uid in range(1, 33) if uid != 15]


def test_what_vanishes_from_a_known_window_is_kept(database: Database) -> None:
    # Given a provider's thousand, and a server that calls removed what has left it
    with ImapServer(QRESYNC) as server:
        server.inbox.append(*(message(n) for n in range(1, 1001)))
        account = register(server)
        sync(account)

        server.inbox.append(message(1001))
        server.inbox.expunge(1)
        sync(account)

        assert stored_uids() == list(range(1, 1002))
        assert standing() == (1000, 1, 0, "window")


@pytest.mark.parametrize("first_uid", [1, 501])
def test_a_folder_that_shows_as_many_as_a_window_may_have_older_ones(database: Database, first_uid: int) -> None:
    with ImapServer(QRESYNC) as server:
        server.inbox.append(*(message(n) for n in range(1000)), uid=first_uid)

        tally = sync(register(server))

        # With UID 1 it has its first message
        assert bool(tally.incomplete) == (first_uid > 1)


def test_a_message_that_vanished_and_is_there_is_kept(database: Database) -> None:
    with ImapServer(QRESYNC) as server:
        server.inbox.append(*(message(n) for n in ALL))
        account = register(server)
        sync(account)
        server.inbox.set_flags(9, "\\Seen")
        server.on(r"UID FETCH .*VANISHED", rewrite(rb"\A", b"* VANISHED (EARLIER) 3:5\r\n"))

        assert sync(account).total("deleted") == 0
        assert stored_uids() == ALL


def test_a_folder_numbered_anew_by_a_server_that_names_some_keeps_its_rows(server: ImapServer) -> None:
    account = register(server)
    sync(account)
    ids = set(column("SELECT id FROM email_message"))

    server.inbox.uidvalidity = 2
    server.inbox.window, server.inbox.exists = 10, 30
    tally = sync(account)

    assert "10 of 30" in tally.failed_folders["INBOX"]
    assert set(column("SELECT id FROM email_message")) == ids

    server.inbox.window = server.inbox.exists = None
    sync(account)
    assert set(column("SELECT id FROM email_message")) == ids


@pytest.mark.parametrize(
    "answer", ["there", "NO [SERVERBUG] try later", "NO Server busy, try again later", "BAD what?"]
)
def test_a_folder_that_list_leaves_out_is_kept_unless_it_is_gone(server: ImapServer, answer: str) -> None:
    server.add_folder("Projects").append(message(40))
    account = register(server)
    sync(account)

    server.on("LIST", rewrite(rb'\* LIST [^\r]*"Projects"\r\n(\* STATUS "Projects"[^\r]*\r\n)?', b""), times=None)
    if answer != "there":
        server.on("(STATUS|EXAMINE) .*Projects", refuse(answer), times=None)
    tally = sync(account)

    assert stored_uids("Projects") == [1]
    assert tally.deleted_with_folders == 0
    assert bool(tally.failed_folders) == (answer != "there")


def test_a_folder_that_is_gone_is_removed(server: ImapServer) -> None:
    server.add_folder("Projects").append(message(40))
    account = register(server)
    sync(account)

    del server.folders[b"Projects"]
    tally = sync(account)

    assert tally.deleted_with_folders == 1
    assert column("SELECT name FROM email_folder") == ["INBOX"]


def test_what_is_missing_is_looked_for_again_at_once_and_then_every_hour(
    server: ImapServer, database: Database
) -> None:
    server.inbox.window, server.inbox.exists = 10, 30
    account = register(server)
    sync(account)
    server.received.clear()
    sync(account)
    assert server.commands("UID SEARCH"), "a server's bad moment is over soon"

    if "CONDSTORE" not in server.capabilities:
        return  # all is compared at every sync
    server.received.clear()
    sync(account)
    assert not server.commands("UID SEARCH"), "not at every sync"
    assert find_account(TENANT, account.id).last_error_code == "mailbox_incomplete"

    rows("UPDATE email_folder SET missing_again_at = missing_again_at - interval '61 minutes' RETURNING 1")
    server.inbox.window = None
    assert sync(account).incomplete == []
    assert stored_uids() == ALL


def test_messages_that_are_named_and_not_given_are_missing(server: ImapServer) -> None:
    nothing = rb"\* (7|8) FETCH \([^{\r]*(\{\d+\}\r\n(?s:.*?)\r\n\)|\))\r\n"
    server.on(r"UID FETCH", rewrite(nothing, b""), times=None)
    account = register(server)

    tally = sync(account)

    assert stored_uids() == [uid for uid in ALL if uid not in (7, 8)]
    assert standing() == (30, 0, 2, "withheld")
    assert [(folder.name, folder.missing) for folder in tally.incomplete] == [("INBOX", 2)]


def test_a_window_that_is_numbered_anew_keeps_what_it_hides(server: ImapServer) -> None:
    server.inbox.window = 30
    account = register(server)
    sync(account)
    server.inbox.append(*(message(n) for n in range(31, 36)))
    sync(account)
    ids = set(column("SELECT id FROM email_message"))
    assert len(ids) == 35

    # When all UIDs are others
    old = server.inbox
    new = server.add_folder("INBOX", uidvalidity=2, window=30)
    new.append(*(old.messages[uid].content() for uid in old.uids), uid=101)
    sync(account)

    # Then the rows stay, those that are shown under their new UIDs
    assert set(column("SELECT id FROM email_message")) == ids
    assert column("SELECT imap_uid FROM email_message WHERE uidvalidity = 2 ORDER BY 1") == list(range(106, 136))
    assert standing()[:3] == (30, 5, 0)
    new.append(message(36))
    sync(account)
    assert standing()[:3] == (30, 6, 0)
    assert set(server.bodies.values()) == {1}

    # until the number of messages says that there is no window
    new.window = 20
    sync(account)
    assert column("SELECT count(*) FROM email_message") == [20]
    assert standing() == (20, 0, 0, None)
    assert_counts_agree()


def test_as_many_as_are_here_may_be_others_where_some_were_missing(database: Database) -> None:
    # Given a folder of which one message is not given, on a server that tells of no removal
    with ImapServer(CONDSTORE) as server:
        server.inbox.append(*(message(n) for n in ALL))
        nothing = rb"\* 7 FETCH \([^{\r]*(\{\d+\}\r\n(?s:.*?)\r\n\)|\))\r\n"
        withheld = server.on("UID FETCH", rewrite(nothing, b""), times=None)
        account = register(server)
        sync(account)
        sync(account)
        assert standing()[2] == 1

        # When another one is removed, so that as many are there as are here, and it is given again
        server.rules.remove(withheld)
        server.expunge(server.inbox, 20)
        sync(account)

        assert stored_uids() == [uid for uid in ALL if uid != 20]
        assert standing() == (29, 0, 0, None)
