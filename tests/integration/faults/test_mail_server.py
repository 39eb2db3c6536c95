"""A mail server that hangs, breaks off, refuses and miscounts: in the end its messages are stored, each once.

Scripted, since no real server does these on request. Each fault happens in the middle of a first sync of thirty
messages in batches of five, at message 13; then the sync is tried again as the task would be.
"""

import time
from collections.abc import Callable, Iterator

import pytest

from tasks.errors import MailServerBusyError, MailServerUnavailableError, ProtocolError, TransientError
from tasks.storage.accounts.rows import Account, find_account
from tests.conftest import TENANT, Database, register, sync
from tests.support.imap_faults import Action, bye, cut, drop, from_message, hang, literal_length, refuse, rewrite
from tests.support.imap_server import BASIC, QRESYNC, ImapServer
from tests.support.mailbox import message
from tests.support.stored import assert_counts_agree, column, quarantine, rows, stored_uids

BODIES = r"UID FETCH .*BODY\.PEEK\[\]"
ALL = list(range(1, 31))


@pytest.fixture
def server(database: Database, environment: Callable[..., None]) -> Iterator[ImapServer]:
    environment(SYNC_BATCH_SIZE="5", MAIL_TIMEOUT="1")
    with ImapServer() as server:
        server.inbox.append(*(message(n) for n in ALL))
        yield server


def sync_again_and_again(
    account: Account, tries: int = 12, *, full_since: float | None = None
) -> list[TransientError]:
    """As the task does: what went wrong before the sync that went through."""
    errors: list[TransientError] = []
    for _ in range(tries):
        try:
            sync(account, full_since=full_since)
        except TransientError as error:
            errors.append(error)
            if full_since is None:  # a full sync lets what was set aside count as missing
                assert_nothing_below_the_checkpoint_is_missing()
        else:
            return errors
    raise AssertionError(f"not done after {tries} tries: {errors[-1]}")


def assert_nothing_below_the_checkpoint_is_missing() -> None:
    """What email_folder promises: every message with a UID below `uidnext` is stored or set aside."""
    checkpoints = column("SELECT uidnext FROM email_folder WHERE name = 'INBOX'")
    below = {uid for uid in ALL for checkpoint in checkpoints if uid < checkpoint}
    assert below <= {*stored_uids(), *quarantine()}


MIDDLE = {
    "hangs": (hang, MailServerUnavailableError),
    "hangs in a literal": (cut(150, "hang"), MailServerUnavailableError),
    "drops": (drop, MailServerUnavailableError),
    "drops in a line": (cut(20), TransientError),
    "drops in a literal": (cut(150), MailServerUnavailableError),
    "says BYE": (bye(), MailServerUnavailableError),
    "literal 1 too short": (literal_length(lambda n: n - 1), TransientError),
    "literal 2 too short": (literal_length(lambda n: n - 2), ProtocolError),
    "literal 40 too short": (literal_length(lambda n: n - 40), ProtocolError),
    "literal 1 too long": (literal_length(lambda n: n + 1), TransientError),
    "literal 3 too long": (literal_length(lambda n: n + 3), TransientError),
    "literal 700 too long": (literal_length(lambda n: n + 700), TransientError),
    "literal of a terabyte": (literal_length(lambda n: 10**12), TransientError),
    "literal of a number no one can hold": (literal_length(lambda n: 10**30), ProtocolError),
    "no number after the star": (rewrite(rb"\* \d+ FETCH", b"* FETCH"), None),
    "no UID": (rewrite(rb"UID \d+ ", b""), None),
    "another tag": (rewrite(rb"\r\n[A-Z]+\d+ OK", b"\r\nZZZZ9 OK"), TransientError),
}


@pytest.mark.parametrize(("action", "error"), MIDDLE.values(), ids=MIDDLE)
def test_messages_that_come_wrong_are_fetched_again(
    server: ImapServer, action: Action, error: type[Exception]
) -> None:
    # Given a server that fails once, in the middle
    server.on(BODIES, from_message(13, action), uid=13)
    account = register(server)

    errors = sync_again_and_again(account)

    # Then it was noticed, every message is there once, and none was set aside
    assert error is None or (len(errors) == 1 and isinstance(errors[0], error)), errors
    assert stored_uids() == ALL
    assert quarantine() == {}
    assert_counts_agree()
    assert find_account(TENANT, account.id).last_error is None


EARLY = {
    "LIST hangs": ("LIST", hang),
    "LIST is cut": ("LIST", cut(10)),
    "LIST says BYE": ("LIST", bye()),
    "EXAMINE drops": ("EXAMINE", drop),
    "EXAMINE says BYE": ("EXAMINE", bye()),
    "SEARCH drops": ("UID SEARCH", drop),
    "the first FETCH drops": ("UID FETCH", drop),
    "the first FETCH is cut": ("UID FETCH", cut(30)),
}


@pytest.mark.parametrize(("command", "action"), EARLY.values(), ids=EARLY)
def test_what_goes_wrong_before_the_messages_is_tried_again(server: ImapServer, command: str, action: Action) -> None:
    server.on(command, action)
    account = register(server)

    errors = sync_again_and_again(account)

    assert len(errors) == 1
    assert stored_uids() == ALL
    assert_counts_agree()


def test_a_list_that_is_nonsense_is_asked_for_again(server: ImapServer) -> None:
    server.on("LIST", rewrite(rb"\* LIST .*", b"* LIST (((("))

    assert sync_again_and_again(register(server)) == []
    assert stored_uids() == ALL


NO_LIST = {
    "NO": refuse("NO busy"),
    "BAD": refuse("BAD what"),
    "nothing": rewrite(rb"\* (LIST|STATUS) .*\r\n", b""),
}


@pytest.mark.parametrize("action", NO_LIST.values(), ids=NO_LIST)
@pytest.mark.parametrize("capabilities", [BASIC, QRESYNC], ids=["basic", "qresync"])
def test_a_server_that_lists_no_folders_is_tried_again(server: ImapServer, capabilities: str, action: Action) -> None:
    # Given a server that fails three times, which is as often as one with extensions is asked at once
    server.capabilities = capabilities
    server.on("LIST", action, times=3)
    account = register(server)

    assert len(sync_again_and_again(account)) == (3 if capabilities == BASIC else 1)

    assert stored_uids() == ALL
    assert find_account(TENANT, account.id).last_error is None


REFUSED = {"NO": refuse("NO [SERVERBUG] cannot read it"), "BAD": refuse("BAD internal error")}


@pytest.mark.parametrize("action", REFUSED.values(), ids=REFUSED)
def test_a_message_that_the_server_refuses_is_set_aside_and_tried_by_a_full_sync(
    server: ImapServer, action: Action
) -> None:
    # Given one message that the server never gives
    rule = server.on(BODIES, action, times=None, uid=13)
    account = register(server)

    sync(account)

    assert stored_uids() == [uid for uid in ALL if uid != 13]
    assert quarantine() == {13: "refused"}
    assert_counts_agree()
    # and which the next sync does not ask for
    hits = rule.hits
    sync(account)
    assert rule.hits == hits

    # When it gives it after all
    server.rules.clear()
    sync(account, full_since=4_000_000_000)

    assert stored_uids() == ALL
    assert quarantine() == {}


@pytest.mark.parametrize("action", REFUSED.values(), ids=REFUSED)
def test_a_server_that_refuses_all_messages_is_busy_and_loses_none(
    server: ImapServer, action: Action, environment: Callable[..., None]
) -> None:
    environment(SYNC_BATCH_SIZE="20")
    server.on(BODIES, action, times=None)
    account = register(server)

    with pytest.raises(MailServerBusyError):
        sync(account)
    assert quarantine() == {}

    server.rules.clear()
    sync(account)
    assert stored_uids() == ALL


def test_a_few_messages_refused_by_a_server_that_gave_none_yet_are_tried_three_times(server: ImapServer) -> None:
    # Given a server that refuses all of a few messages, so that it may be the server and not the messages
    server.inbox.expunge(*range(6, 31))
    rule = server.on(BODIES, refuse("NO later"), times=None)
    account = register(server)

    tallies = [sync(account), sync(account)]
    assert quarantine() == {}
    assert all("later" in tally.failed_folders["INBOX"] for tally in tallies)

    # When it gives them after all
    server.rules.remove(rule)
    sync(account)

    assert stored_uids() == [1, 2, 3, 4, 5]
    assert quarantine() == {}


@pytest.mark.parametrize(
    "action", [hang, drop, cut(100), literal_length(lambda n: n + 3)], ids=["hang", "drop", "cut", "literal_length"]
)
def test_a_message_that_always_breaks_the_connection_is_set_aside(server: ImapServer, action: Action) -> None:
    # Given one message on which the server fails every time
    server.on(BODIES, from_message(13, action), times=None, uid=13)
    account = register(server)

    errors = sync_again_and_again(account)

    # Then it is known after a few tries, and the folder is complete without it
    assert len(errors) <= 5
    assert stored_uids() == [uid for uid in ALL if uid != 13]
    assert quarantine() == {13: "undeliverable"}
    assert_counts_agree()


@pytest.mark.parametrize("form", ["nil", "left out"])
def test_a_message_without_a_body_is_set_aside(server: ImapServer, form: str) -> None:
    server.body_form[13] = form
    account = register(server)

    sync(account)

    assert stored_uids() == [uid for uid in ALL if uid != 13]
    assert quarantine() == {13: "refused"}
    asked = server.bodies[13]
    sync(account)
    assert server.bodies[13] == asked


def test_bodies_as_quoted_strings_are_read(server: ImapServer) -> None:
    # Given one-line messages, one of which looks like items of the protocol
    server.inbox.append(b'UID 3 FLAGS (\\Deleted) "quoted" \\ BODY[] {3}', b"Subject: short")
    server.body_form = {31: "quoted", 32: "quoted"}
    server.arrange = lambda items: items[::-1]

    sync(register(server))

    assert stored_uids() == [*ALL, 31, 32]
    assert rows("SELECT count(*) FROM email_message WHERE is_deleted") == [(0,)]
    assert rows("SELECT subject FROM email_message WHERE imap_uid = 32") == [("short",)]


def test_a_full_sync_sets_a_message_that_breaks_the_connection_aside_as_well(server: ImapServer) -> None:
    # Given a message that was set aside because it breaks the connection, and still does
    server.on(BODIES, from_message(13, drop), times=None, uid=13)
    account = register(server)
    sync_again_and_again(account)
    (first,) = column("SELECT id FROM raw_quarantine")

    # When a full sync tries it again
    sync_again_and_again(account, full_since=time.time())

    # Then it comes to an end, and the message is set aside anew
    assert stored_uids() == [uid for uid in ALL if uid != 13]
    assert quarantine() == {13: "undeliverable"}
    assert column("SELECT id FROM raw_quarantine") != [first]


def test_one_folder_that_cannot_be_opened_keeps_no_other_from_its_mail(server: ImapServer) -> None:
    server.add_folder("Kaputt").append(message(99))
    server.add_folder("Zuletzt").append(message(100))
    server.on('EXAMINE "Kaputt"', refuse("NO [SERVERBUG] broken index"), times=None)

    tally = sync(register(server))

    assert list(tally.failed_folders) == ["Kaputt"]
    assert "broken index" in tally.failed_folders["Kaputt"]
    assert stored_uids() == ALL
    assert stored_uids("Zuletzt") == [1]


def test_messages_that_go_while_they_are_fetched_are_simply_not_there(server: ImapServer) -> None:
    # Given messages that vanish after the server named them
    def remove(answer: object) -> None:
        server.inbox.expunge(13, 14)

    server.on("UID SEARCH", remove)

    sync(register(server))

    assert stored_uids() == [uid for uid in ALL if uid not in {13, 14}]
    assert quarantine() == {}


@pytest.mark.parametrize("exists", [0, 7, 500])
@pytest.mark.parametrize("capabilities", [BASIC, QRESYNC], ids=["basic", "qresync"])
def test_a_wrong_number_of_messages_does_no_harm(server: ImapServer, exists: int, capabilities: str) -> None:
    # Given a server whose EXISTS and STATUS do not agree with what is there
    server.capabilities = capabilities
    account = register(server)
    sync(account)
    server.inbox.exists = exists
    server.inbox.append(message(31))

    sync(account)

    assert stored_uids() == [*ALL, 31]
    assert_counts_agree()


@pytest.mark.parametrize("capabilities", [BASIC, QRESYNC], ids=["basic", "qresync"])
def test_no_answer_to_a_search_is_not_an_empty_folder(server: ImapServer, capabilities: str) -> None:
    # Given a synced folder, of which the server then lists nothing
    server.capabilities = capabilities
    account = register(server)
    sync(account)
    server.on("UID SEARCH", rewrite(rb"\* (E?SEARCH).*\r\n", b""), times=None)

    tally = sync(account, full_since=4_000_000_000)

    # Then nothing is removed, and it is said
    assert stored_uids() == ALL
    assert list(tally.failed_folders) == ["INBOX"]
