"""Extensions that a server offers and then refuses: the mailbox is synced without them, now and from then on.

Scripted, since the servers that do so cannot be had.
"""

from collections.abc import Callable, Iterator

import pytest

from tasks.engine.connect import connected
from tasks.mail.imap import extensions
from tasks.storage.accounts.rows import find_account
from tests.conftest import TENANT, Database, register, sync
from tests.support.imap_faults import Action, Answer, drop, hang, refuse, rewrite
from tests.support.imap_server import CONDSTORE, QRESYNC, ImapServer
from tests.support.mailbox import message
from tests.support.stored import assert_counts_agree, column, stored_uids

ALL = list(range(1, 31))
# A server with CONDSTORE alone, and all else that QRESYNC has.
PLAIN = QRESYNC.replace(" QRESYNC", "").replace(" LIST-STATUS", "")


@pytest.fixture
def server(database: Database, environment: Callable[..., None]) -> Iterator[ImapServer]:
    environment(MAIL_TIMEOUT="1")
    with ImapServer() as server:
        server.inbox.append(*(message(n) for n in ALL))
        server.add_folder("Work").append(message(99))
        yield server


def plain_search(answer: Answer) -> None:
    """Answer SEARCH RETURN as if it were SEARCH."""
    answer.data = b"* SEARCH " + b" ".join(b"%d" % n for n in ALL) + b"\r\n" + answer.tag + b" OK done\r\n"


BAD = refuse("BAD I do not know that")
NONSENSE = rewrite(rb"ALL [\d:,]+", b"ALL x")
OFFERED = {
    "ID": (QRESYNC, "ID", BAD, "ID"),
    "ENABLE": (QRESYNC, "ENABLE", BAD, "QRESYNC"),
    "LIST RETURN with states": (QRESYNC, "LIST .*STATUS", BAD, "LIST-STATUS"),
    "LIST RETURN": (PLAIN, "LIST .*RETURN", BAD, "LIST-EXTENDED"),
    "EXAMINE with CONDSTORE": (CONDSTORE, r"EXAMINE .*CONDSTORE", BAD, "CONDSTORE"),
    "SEARCH RETURN": (QRESYNC, "UID SEARCH RETURN", BAD, "ESEARCH"),
    "SEARCH RETURN, answered as SEARCH": (QRESYNC, "UID SEARCH RETURN", plain_search, "ESEARCH"),
    "SEARCH RETURN, answered without ALL": (QRESYNC, "UID SEARCH RETURN", rewrite(rb" ALL [\d:,]+", b""), "ESEARCH"),
    "SEARCH RETURN, answered with nonsense": (QRESYNC, "UID SEARCH RETURN", NONSENSE, "ESEARCH"),
    "CHANGEDSINCE": (CONDSTORE, "UID FETCH .*CHANGEDSINCE", BAD, "CONDSTORE"),
    "VANISHED": (QRESYNC, "UID FETCH .*VANISHED", BAD, "QRESYNC"),
}  # fmt: skip


@pytest.mark.parametrize(("capabilities", "command", "action", "extension"), OFFERED.values(), ids=OFFERED)
def test_a_server_is_asked_without_what_it_refuses(
    server: ImapServer, capabilities: str, command: str, action: Action, extension: str
) -> None:
    server.capabilities = capabilities
    rule = server.on(command, action, times=None)
    account = register(server)

    # Given a first sync, and one with changes of every kind
    assert sync(account).failed_folders == {}
    server.inbox.append(message(31))
    server.inbox.set_flags(7, "\\Seen")
    server.inbox.expunge(3)
    assert sync(account).failed_folders == {}

    # Then nothing is missing
    assert stored_uids() == [uid for uid in [*ALL, 31] if uid != 3]
    assert stored_uids("Work") == [1]
    assert column("SELECT imap_uid FROM email_message WHERE is_read") == [7]
    assert set(server.bodies.values()) == {1, 2}  # by UID, and two folders have a message 1
    assert_counts_agree()
    account = find_account(TENANT, account.id)
    assert account.last_error is None
    # and it is not asked for it again
    assert list(account.refused_extensions) == [extension]
    hits = rule.hits
    server.inbox.append(message(32))
    server.inbox.set_flags(8, "\\Seen")
    sync(account)
    assert rule.hits == hits <= 2
    assert column("SELECT imap_uid FROM email_message WHERE is_read ORDER BY 1") == [7, 8]
    assert 32 in stored_uids()


def test_what_was_refused_is_asked_for_again_after_a_day(server: ImapServer, monkeypatch: pytest.MonkeyPatch) -> None:
    rule = server.on("UID SEARCH RETURN", BAD, times=1)
    account = register(server)
    sync(account)
    now = extensions.time.time()
    monkeypatch.setattr(extensions.time, "time", lambda: now + 25 * 60 * 60)
    server.inbox.append(message(31))

    sync(find_account(TENANT, account.id))

    assert rule.hits == 1
    assert len(server.commands("UID SEARCH RETURN")) == 2
    assert stored_uids() == [*ALL, 31]


@pytest.mark.parametrize("action", [drop, hang], ids=["drop", "hang"])
@pytest.mark.parametrize(("command", "extension"), [("ID", "ID"), ("ENABLE", "QRESYNC")])
def test_a_connection_that_breaks_over_what_nobody_depends_on_is_made_anew_without_it(
    server: ImapServer, command: str, extension: str, action: Action
) -> None:
    rule = server.on(command, action, times=None)
    account = register(server)

    # Once may have been the network, and the second time it is believed
    for hits in (1, 2, 2):
        account = find_account(TENANT, account.id)
        assert sync(account).failed_folders == {}
        assert rule.hits == hits

    assert stored_uids() == ALL
    assert find_account(TENANT, account.id).refused_extensions[extension]["is_sure"]


def test_a_connection_that_broke_once_is_not_held_against_an_extension_that_works(server: ImapServer) -> None:
    server.on("ID", drop)
    account = register(server)
    sync(account)
    assert list(find_account(TENANT, account.id).refused_extensions) == ["ID"]

    sync(find_account(TENANT, account.id))

    assert find_account(TENANT, account.id).refused_extensions == {}


@pytest.mark.parametrize("words", ["NO [UNAVAILABLE] later", "NO busy"])
def test_a_server_in_trouble_refuses_for_now(server: ImapServer, words: str) -> None:
    server.on("UID SEARCH RETURN", refuse(words))
    account = register(server)

    assert sync(account).failed_folders == {}

    assert stored_uids() == ALL
    assert find_account(TENANT, account.id).refused_extensions == {}


def test_a_folder_that_is_not_there_says_nothing_about_condstore(server: ImapServer) -> None:
    server.capabilities = CONDSTORE
    server.on('EXAMINE "Work"', refuse("NO [NONEXISTENT] no such folder"), times=None)
    account = register(server)

    sync(account)

    assert stored_uids() == ALL
    assert find_account(TENANT, account.id).refused_extensions == {}


def test_a_server_that_says_no_capabilities_after_the_login_is_taken_by_those_before(server: ImapServer) -> None:
    server.on("CAPABILITY", refuse("BAD once is enough"), after=1, times=None)

    with connected(register(server)) as imap:
        assert {"QRESYNC", "ESEARCH"} <= imap.capabilities


@pytest.mark.parametrize(
    "action", [BAD, refuse("NO"), rewrite(rb"\* CAPABILITY.*\r\n", b"")], ids=["BAD", "NO", "none"]
)
def test_a_server_that_says_no_capabilities_at_all_speaks_imap4rev1(server: ImapServer, action: Action) -> None:
    server.on("CAPABILITY", action, times=None)

    sync(register(server))

    assert stored_uids() == ALL


def test_a_server_of_imap4rev2_alone_is_understood(server: ImapServer) -> None:
    server.capabilities = "IMAP4rev2 AUTH=PLAIN"

    sync(register(server))

    assert stored_uids() == ALL
