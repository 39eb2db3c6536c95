"""A POP3 server that hangs, breaks off and refuses: in the end its messages are stored, each once.

Scripted, since no real server does these on request. Each fault happens in the middle of a first sync of thirty
messages in batches of five; then the sync is tried again as the task would be.
"""

from collections.abc import Callable, Iterator

import pytest

from tasks.errors import (
    AuthenticationFailedError,
    EncryptionUnavailableError,
    MailServerBusyError,
    MailServerUnavailableError,
    TransientError,
)
from tasks.storage.accounts.rows import Account, find_account
from tests.conftest import TENANT, Database, register, sync
from tests.support.imap_faults import Action, Answer, cut, drop, hang, rewrite
from tests.support.mailbox import message
from tests.support.pop3_server import EVERYTHING, Pop3Server
from tests.support.stored import assert_counts_agree, column, quarantine, rows

ALL = [f"uid-{n:02}" for n in range(1, 31)]
WITHOUT_UIDL = EVERYTHING.replace("UIDL ", "")
LEAST = "USER"
BEFORE_CAPA = ""


@pytest.fixture
def server(database: Database, environment: Callable[..., None]) -> Iterator[Pop3Server]:
    environment(SYNC_BATCH_SIZE="5", MAIL_TIMEOUT="1")
    with Pop3Server() as server:
        server.messages = {name: message(n) for n, name in enumerate(ALL, 1)}
        yield server


def add(server: Pop3Server, **changes: object) -> Account:
    return register(server, protocol="pop3", **changes)


def refuse(words: str = "[SYS/PERM] broken") -> Action:
    def act(answer: Answer) -> None:
        answer.data = f"-ERR {words}\r\n".encode()

    return act


def stored() -> list[object]:
    return column("SELECT uidl FROM email_message ORDER BY uidl")


def sync_again_and_again(account: Account, tries: int = 12) -> list[TransientError]:
    """As the task does: what went wrong before the sync that went through."""
    errors: list[TransientError] = []
    for _ in range(tries):
        try:
            sync(account)
        except TransientError as error:
            errors.append(error)
        else:
            return errors
    raise AssertionError(f"not done after {tries} tries: {errors[-1]}")


MIDDLE = {
    "hangs": hang,
    "hangs in a message": cut(150, "hang"),
    "drops": drop,
    "drops in the first line": cut(2),
    "drops in a message": cut(150),
    "drops before the final dot": rewrite(rb"\r\n\.\r\n\Z", b"\r\n"),
    "no answer line": rewrite(rb"\A\+OK\r\n", b""),
    "nonsense": rewrite(rb"\A\+OK", b"* FETCH"),
}


@pytest.mark.parametrize("action", MIDDLE.values(), ids=MIDDLE)
@pytest.mark.parametrize("capabilities", [EVERYTHING, LEAST + " UIDL"], ids=["pipelining", "one by one"])
def test_messages_that_come_wrong_are_fetched_again(server: Pop3Server, capabilities: str, action: Action) -> None:
    def act(answer: Answer) -> None:
        action(answer)
        answer.then = "drop" if answer.then == "go on" else answer.then

    # Given a server that fails once, in the middle
    server.capabilities = capabilities
    server.on("RETR 13$", act)
    account = add(server)

    errors = sync_again_and_again(account)

    # Then it was noticed, what came before was kept, every message is there once, and none was set aside
    assert len(errors) == 1
    assert stored() == ALL
    assert quarantine() == {}
    assert_counts_agree()
    assert max(server.retrieved[name] for name in ALL[:10]) == 1
    assert find_account(TENANT, account.id).last_error is None


EARLY = {
    "the greeting of LIST hangs": ("LIST", hang),
    "LIST is cut": ("LIST", cut(10)),
    "LIST is refused": ("LIST", refuse("[SYS/TEMP] later")),
    "LIST is nonsense": ("LIST", rewrite(rb"\r\n1 ", b"\r\none ")),
    "LIST names absurd sizes": ("LIST", rewrite(rb"\r\n1 \d+", b"\r\n1 " + b"9" * 5000)),
    "UIDL is cut": ("UIDL", cut(40)),
    "the first RETR drops": ("RETR", drop),
    "CAPA drops": ("CAPA", drop),
}


@pytest.mark.parametrize(("command", "action"), EARLY.values(), ids=EARLY)
def test_what_goes_wrong_before_the_messages_is_tried_again(server: Pop3Server, command: str, action: Action) -> None:
    server.on(command, action)

    errors = sync_again_and_again(add(server))

    assert len(errors) == 1
    assert stored() == ALL


def test_a_message_that_always_breaks_the_connection_is_set_aside(server: Pop3Server) -> None:
    server.on("RETR 13$", drop, times=None)

    # Its number changes from session to session, its unique-id does not
    errors = sync_again_and_again(add(server))

    assert len(errors) == 3
    assert all(isinstance(error, MailServerUnavailableError) for error in errors)
    assert rows("SELECT uidl, reason FROM raw_quarantine") == [("uid-13", "undeliverable")]
    assert stored() == [name for name in ALL if name != "uid-13"]


def test_the_suspect_is_known_by_its_unique_id(server: Pop3Server) -> None:
    # Given a connection that broke at number 13, and numbers that have changed since
    server.on("RETR 13$", drop)
    account = add(server)
    with pytest.raises(TransientError):
        sync(account)
    assert rows("SELECT suspect_uid, suspect_uidl FROM email_folder") == [(None, "uid-13")]
    del server.messages["uid-01"]

    sync(account)

    assert stored() == ALL
    assert rows("SELECT suspect_uidl, suspect_attempts FROM email_folder") == [(None, 0)]


def test_a_message_that_the_server_refuses_is_set_aside(server: Pop3Server) -> None:
    server.on("RETR 13$", refuse(), times=None)

    assert sync_again_and_again(add(server)) == []

    assert rows("SELECT uidl, reason, detail FROM raw_quarantine") == [("uid-13", "refused", "[SYS/PERM] broken")]
    assert stored() == [name for name in ALL if name != "uid-13"]


def test_a_server_that_refuses_all_is_in_trouble_and_nothing_is_set_aside(server: Pop3Server) -> None:
    server.on("RETR", refuse(), times=None)
    account = add(server)
    for _ in range(8):
        with pytest.raises(TransientError):
            sync(account)
    assert quarantine() == {}

    server.rules.clear()
    sync(account)
    assert stored() == ALL


@pytest.mark.parametrize("capabilities", [WITHOUT_UIDL, LEAST, BEFORE_CAPA], ids=["TOP", "neither", "before CAPA"])
def test_a_server_without_unique_ids(server: Pop3Server, capabilities: str) -> None:
    # Given one message without a Message-ID among the others, twice with another body
    server.capabilities = capabilities
    for n in (1, 2):
        anonymous = message(9, body=f"body {n}").replace(b"Message-ID: <9@example.org>\r\n", b"")
        server.messages[f"anonymous-{n}"] = anonymous
    account = add(server)

    first = sync(account)
    del server.messages["uid-01"]
    server.messages["new"] = message(99)
    second = sync(account)

    # Then each is stored once, also where numbers changed and a message came
    assert (first.total("synced"), second.total("synced")) == (32, 1)
    assert all(str(uidl).startswith("sha256:") for uidl in stored())
    assert len(set(column("SELECT message_id FROM email_message WHERE message_id IS NOT NULL"))) == 31
    assert sync(account).total("synced") == 0


def test_an_empty_maildrop_needs_no_unique_ids(server: Pop3Server) -> None:
    server.messages.clear()
    server.on("UIDL", refuse("no messages"))

    assert sync(add(server)).total("synced") == 0


def test_a_server_that_withholds_its_unique_ids_at_first_is_not_read_twice(server: Pop3Server) -> None:
    account = add(server)
    server.on("UIDL", refuse("not today"))

    with pytest.raises(MailServerBusyError, match="it says it has"):
        sync(account)
    assert sync(account).total("synced") == len(ALL)
    assert stored() == ALL


def test_a_server_that_withholds_its_unique_ids_once_is_not_read_again(server: Pop3Server) -> None:
    account = add(server)
    sync(account)
    server.capabilities = WITHOUT_UIDL
    server.messages["new"] = message(99)

    with pytest.raises(MailServerBusyError, match="given before"):
        sync(account)
    server.capabilities = EVERYTHING
    assert sync(account).total("synced") == 1
    assert stored() == sorted([*ALL, "new"])


def test_copies_of_one_unique_id_are_one_and_others_are_not_lost(server: Pop3Server) -> None:
    # Given a server that numbers badly: two copies of one message, and another one of the same unique-id
    server.on("UIDL", rewrite(rb"uid-0[123]\r", b"same\r"), times=None)
    server.messages["uid-02"] = server.messages["uid-01"]
    server.messages["uid-03"] = message(3, body="longer than the others")

    tally = sync(add(server))

    assert tally.total("synced") == 29
    assert {"1@example.org", "3@example.org"} <= set(column("SELECT message_id FROM email_message"))


def test_a_wrong_password_is_not_hammered(server: Pop3Server) -> None:
    account = add(server, password="wrong")
    with pytest.raises(AuthenticationFailedError):
        sync(account)
    assert find_account(TENANT, account.id).paused_at is not None
    assert server.logins == 1


@pytest.mark.parametrize(
    "words", ["[IN-USE] another session", "[LOGIN-DELAY] too soon", "[SYS/TEMP] later", "Maildrop locked, try again"]
)
def test_a_busy_server_is_not_a_wrong_password(server: Pop3Server, words: str) -> None:
    server.on("AUTH", refuse(words))
    account = add(server)
    with pytest.raises(MailServerBusyError):
        sync(account)
    assert find_account(TENANT, account.id).paused_at is None
    assert sync(account).total("synced") == 30


def test_a_server_that_greets_with_an_error(server: Pop3Server) -> None:
    server.greeting = b"-ERR shutting down\r\n"
    with pytest.raises(MailServerUnavailableError):
        sync(add(server))


def test_user_and_pass_where_there_is_no_sasl(server: Pop3Server) -> None:
    server.capabilities = "USER UIDL"
    assert sync(add(server)).total("synced") == 30
    assert server.commands("USER") == [b"USER ada"]


def test_a_password_is_not_sent_where_encryption_is_wanted_and_not_offered(server: Pop3Server) -> None:
    with pytest.raises(EncryptionUnavailableError):
        sync(add(server, encryption="starttls"))
    server.capabilities = "UIDL STLS"
    with pytest.raises(EncryptionUnavailableError):
        sync(add(server, name="plain"))
    assert server.logins == 0


@pytest.mark.parametrize("action", [drop, hang, refuse("cannot delete all")])
def test_what_the_server_did_not_delete_is_deleted_next_time(server: Pop3Server, action: Action) -> None:
    # Given a connection that breaks when QUIT is to delete
    account = add(server, pop3_keep_days=0)
    server.on("QUIT", action)
    with pytest.raises(TransientError):
        sync(account)
    assert stored() == ALL
    assert len(server.messages) == 30

    assert sync(account).total("synced") == 0

    assert server.messages == {}
    assert stored() == ALL


def test_nothing_is_deleted_before_it_is_stored(server: Pop3Server) -> None:
    # Given a connection that breaks in the middle
    account = add(server, pop3_keep_days=0)
    server.on("RETR 20$", drop)
    with pytest.raises(TransientError):
        sync(account)

    # Then nothing was asked to be deleted, also of what is stored
    assert server.commands("DELE") == []
    assert len(server.messages) == 30


BEYOND_ASCII = "From: Ådå <ådå@exämple.org>\r\nSubject: Grüße\r\nMessage-ID: <g@x>\r\n\r\nHällo\r\n".encode()


@pytest.mark.parametrize("capabilities", [f"{EVERYTHING} UTF8", f"{EVERYTHING} UTF8=USER"])
def test_mail_beyond_ascii_is_asked_for_as_it_is(server: Pop3Server, capabilities: str) -> None:
    server.capabilities = capabilities
    server.messages = {"one": BEYOND_ASCII}
    sync(add(server))
    assert column("SELECT subject FROM email_message") == ["Grüße"]
    assert server.received.index(b"UTF8") < min(
        number for number, line in enumerate(server.received) if line.startswith((b"AUTH", b"USER"))
    )


def test_a_server_that_offers_utf8_and_refuses_it_is_used_without(server: Pop3Server) -> None:
    server.capabilities = f"{EVERYTHING} UTF8"
    server.on("UTF8", refuse("not here"), times=None)
    account = add(server)
    for _ in range(2):
        sync(account)
    assert column("SELECT count(*) FROM email_message") == [30]


def test_utf8_is_not_asked_for_where_it_is_not_offered(server: Pop3Server) -> None:
    sync(add(server))
    assert b"UTF8" not in server.received


@pytest.mark.parametrize("words", ["no messages", "mailbox empty", ""])
def test_a_server_that_refuses_to_list_nothing_has_nothing(server: Pop3Server, words: str) -> None:
    server.messages = {}
    for command in ("LIST", "UIDL"):
        server.on(command, refuse(words), times=None)
    account = add(server)
    assert sync(account).total("synced") == 0
    assert find_account(TENANT, account.id).last_error is None


def test_a_server_that_refuses_to_list_what_it_has_is_in_trouble(server: Pop3Server) -> None:
    account = add(server)
    server.on("LIST", refuse("no messages"), times=None)
    with pytest.raises(TransientError, match="no messages"):
        sync(account)
    assert find_account(TENANT, account.id).last_error is not None

    server.rules.clear()
    assert sync(account).total("synced") == 30


@pytest.mark.parametrize("blanks", [b"  ", b"\t", b" \t "])
def test_blanks_in_lists_are_borne(server: Pop3Server, blanks: bytes) -> None:
    for command in ("LIST", "UIDL", "STAT"):
        server.on(command, rewrite(rb"(?m)^(\d+) (\S+)\r$", rb"\1" + blanks + rb"\2 \r"), times=None)
    account = add(server)
    assert sync(account).total("synced") == 30
    assert sync(account).total("synced") == 0
