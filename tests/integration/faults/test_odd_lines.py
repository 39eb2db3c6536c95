"""Lines that a server writes in its own way, or badly: such a line costs itself at most.

Scripted, since the servers that write so cannot be had. Each mailbox has thirty messages.
"""

import time
from collections.abc import Callable, Iterator

import pytest

from tasks.storage.accounts.rows import find_account
from tests.conftest import TENANT, Database, register, sync
from tests.support.imap_faults import Action, Answer, before, refuse, rewrite
from tests.support.imap_server import BASIC, QRESYNC, ImapServer
from tests.support.mailbox import message
from tests.support.stored import assert_counts_agree, column, quarantine, rows, stored_uids

BODIES = r"UID FETCH .*BODY\.PEEK\[\]"
ALL = list(range(1, 31))


@pytest.fixture(params=[BASIC, QRESYNC], ids=["basic", "qresync"])
def server(
    request: pytest.FixtureRequest, database: Database, environment: Callable[..., None]
) -> Iterator[ImapServer]:
    environment(MAIL_TIMEOUT="1")
    with ImapServer(request.param) as server:
        server.inbox.append(*(message(n) for n in ALL))
        yield server


def lower_case(answer: Answer) -> None:
    """Write all but the message in lower case."""
    head, brace, rest = answer.data.partition(b"{")
    answer.data = head.lower() + brace + rest


END_OF_MESSAGE = rb"\)\r\n(?=\* \d+ FETCH|[A-Z]+\d+ )"
WRITTEN = {
    "an empty line after each message": rewrite(END_OF_MESSAGE, b"\r\n)\r\n"),
    "two empty lines after each message": rewrite(END_OF_MESSAGE, b"\r\n \r\n)\r\n"),
    "blanks after each message": rewrite(END_OF_MESSAGE, b"  ) \r\n"),
    "items in lower case after the literal": rewrite(END_OF_MESSAGE, b" x-gm-thrid 7 modseq (12) )\r\n"),
    "items in lower case": rewrite(rb"UID (\d+) FLAGS", rb"uid \1 flags"),
    "the answer in lower case": rewrite(rb"(\d+) FETCH \(UID (\d+)", rb"\1 fetch (uid \2"),
    "a day without its zero": rewrite(rb'"02-Mar', b'"2-Mar'),
    "an empty line between answers": rewrite(rb"\r\n\* 5 FETCH", b"\r\n\r\n* 5 FETCH"),
    "an answer that nobody knows": before(b"* XYZZY 12 ((\r\n* 9\r\n* \r\nhello\r\n* OK [ALERT] going down\r\n"),
    "an answer that nobody knows with a literal": before(b"* 9 ((( {10}\r\nA1 BAD x\r\n)\r\n* X {4}\r\na\r\nb\r\n"),
    "numbers in front": before(b"* 40 EXISTS\r\n* 0 RECENT\r\n* 31 FETCH (FLAGS (\\Deleted))\r\n"),
}  # fmt: skip


@pytest.mark.parametrize("action", WRITTEN.values(), ids=WRITTEN)
def test_messages_are_read_however_their_lines_are_written(server: ImapServer, action: Action) -> None:
    server.on(BODIES, action, times=None)
    account = register(server)

    assert sync(account).failed_folders == {}

    assert stored_uids() == ALL
    assert quarantine() == {}
    assert set(server.bodies.values()) == {1}
    assert column("SELECT DISTINCT received_at::date::text FROM email_message") == ["2026-03-02"]
    assert column("SELECT DISTINCT text_body FROM email_message") == ["Hello.\n"]
    assert rows("SELECT count(*) FROM email_message WHERE is_deleted") == [(0,)]
    assert_counts_agree()


SPLIT = {
    "after the message": rb"* \1 FETCH (\2\4)\r\n* \1 FETCH (\2 \3)\r\n",
    "before the message": rb"* \1 FETCH (\2 \3)\r\n* \1 FETCH (\2\4)\r\n",
    "after it, by number": rb"* \1 FETCH (\2\4)\r\n* \1 FETCH (\3)\r\n",
    "before it, by number": rb"* \1 FETCH (\3)\r\n* \1 FETCH (\2\4)\r\n",
    "not at all": rb"* \1 FETCH (\2\4)\r\n",
}


@pytest.mark.parametrize("line", SPLIT.values(), ids=SPLIT)
def test_flags_belong_to_the_message_whichever_line_brings_them(server: ImapServer, line: bytes) -> None:
    # Given messages whose flags come in a line of their own
    whole = rb"(?s)\* (\d+) FETCH \((UID \d+) (FLAGS \([^)]*\))(.*?)\)\r\n(?=\* \d+ FETCH|[A-Z]+\d+ )"
    server.on(BODIES, rewrite(whole, line), times=None)
    server.inbox.set_flags(7, "\\Seen")
    server.inbox.set_flags(30, "\\Flagged \\Seen")

    sync(register(server))

    assert stored_uids() == ALL
    assert column("SELECT imap_uid FROM email_message WHERE is_read ORDER BY 1") == [7, 30]
    assert column("SELECT imap_uid FROM email_message WHERE is_starred") == [30]
    assert_counts_agree()


@pytest.mark.parametrize("command", ["CAPABILITY", "LIST", "EXAMINE", "UID SEARCH", "UID FETCH", "LOGOUT"])
@pytest.mark.parametrize("word", [rb"[A-Z]+\d+ OK", rb"\* (?:\d+ )?[A-Z]+"])
def test_words_of_the_protocol_come_in_any_case(server: ImapServer, command: str, word: bytes) -> None:
    def lower(answer: Answer) -> None:
        lines = answer.data.split(b"\r\n")
        for number, line in enumerate(lines):
            tag, blank, rest = line.partition(b" ")
            if tag == answer.tag and b"OK" in word:
                lines[number] = tag + blank + rest.lower()
            elif tag == b"*" and b"OK" not in word and b"{" not in line:
                lines[number] = line.replace(rest, rest.lower()) if b"INBOX" not in rest else rest.join([b"* ", b""])
        answer.data = b"\r\n".join(lines)

    server.on(command, lower, times=None)
    account = register(server)

    assert sync(account).failed_folders == {}
    server.inbox.append(message(31))
    assert sync(account).failed_folders == {}

    assert stored_uids() == [*ALL, 31]


LISTED = {
    "a blank after the name": rewrite(rb'("/") "(\w+)"\r\n', rb'\1 "\2" \r\n'),
    "extended data": rewrite(rb'("/") "(\w+)"\r\n', rb'\1 "\2" ("CHILDINFO" ("SUBSCRIBED"))\r\n'),
    "no delimiter": rewrite(rb'"/" "(\w+)"', rb'"" "\1"'),
    "nil in lower case": rewrite(rb'"/" "(\w+)"', rb'nil "\1"'),
    "bare names": rewrite(rb'"/" "(\w+)"', rb'"/"  \1'),
    "an untagged line more": before(b"* NAMESPACE ((( NIL\r\n* 3 EXISTS\r\n* 2 EXPUNGE\r\n"),
}


@pytest.mark.parametrize("action", LISTED.values(), ids=LISTED)
def test_folders_are_read_however_their_lines_are_written(server: ImapServer, action: Action) -> None:
    server.add_folder("Work").append(message(99))
    server.on("LIST", action, times=None)

    assert sync(register(server)).failed_folders == {}

    assert sorted(column("SELECT name FROM email_folder")) == ["INBOX", "Work"]
    assert stored_uids("Work") == [1]
    assert stored_uids() == ALL


@pytest.mark.parametrize("line", [b'* LIST ((( "/" "Work"', b"* LIST ", b'* LIST () "/" "Work" garbage', b""])
def test_a_folder_whose_line_cannot_be_read_or_is_missing_stays(server: ImapServer, line: bytes) -> None:
    # Given a synced folder, whose line comes garbled, or not at all
    server.add_folder("Work").append(message(99))
    server.add_folder("Zuletzt").append(message(100))
    account = register(server)
    sync(account)
    ids = column("SELECT id FROM email_message ORDER BY id")
    server.on("LIST", rewrite(rb'\* LIST [^\r]*"Work"\r\n', line + b"\r\n" if line else b""), times=None)
    server.inbox.append(message(31))

    tally = sync(account)

    # Then it stays, and so does its mail; the others are synced, and what is wrong is said
    assert set(column("SELECT id FROM email_message")) >= set(ids)
    assert stored_uids() == [*ALL, 31]
    assert bool(tally.failed_folders) == bool(line)
    assert ("cannot be read" in (find_account(TENANT, account.id).last_error or "")) == bool(line)
    # until the server says that it is gone
    server.rules.clear()
    del server.folders[b"Work"]
    sync(account)
    assert sorted(column("SELECT name FROM email_folder")) == ["INBOX", "Zuletzt"]
    assert find_account(TENANT, account.id).last_error is None


def test_a_folder_is_not_removed_by_a_server_in_trouble(server: ImapServer) -> None:
    # Given a server that leaves a folder out, and will not say whether it is there
    server.add_folder("Work").append(message(99))
    account = register(server)
    sync(account)
    server.on("LIST", rewrite(rb'\* LIST [^\r]*"Work"\r\n', b""), times=None)
    rule = server.on("(STATUS|EXAMINE)", refuse("NO [UNAVAILABLE] backend is down"), times=None)

    sync(account)

    assert rule.hits
    assert stored_uids("Work") == [1]


def test_a_folder_that_is_listed_and_said_not_to_exist_stays_while_it_has_a_state(server: ImapServer) -> None:
    server.add_folder("Work").append(message(99))
    account = register(server)
    sync(account)
    server.folders[b"Work"].append(message(100))
    server.on('EXAMINE "Work"', refuse("NO [NONEXISTENT] what?"))

    assert list(sync(account).failed_folders) == ["Work"]

    assert stored_uids("Work") == [1]
    sync(account)
    assert stored_uids("Work") == [1, 2]


UNREADABLE = {
    "no answer": b"* 7 FETCH\r\n",
    "cut off": b"* 7 FETCH (UID 7 FLA)\r\n",
    "without its UID": b"* 7 FETCH (FLAGS (\\\\Seen))\r\n",
    "nothing that begins so": b"*7 FETCH (UID 7 FLAGS (\\\\Seen))\r\n",
}


@pytest.mark.parametrize("line", UNREADABLE.values(), ids=UNREADABLE)
def test_a_change_that_cannot_be_read_is_asked_for_otherwise(database: Database, line: bytes) -> None:
    # Given changed flags, and a server that tells of one of them in a way that cannot be read
    with ImapServer(QRESYNC) as server:
        server.inbox.append(*(message(n) for n in ALL))
        account = register(server)
        sync(account)
        server.inbox.set_flags(7, r"\Seen")
        server.inbox.set_flags(8, r"\Seen")
        server.on("UID FETCH .*CHANGEDSINCE", rewrite(rb"\* 7 FETCH [^\r]*\r\n", line), times=None)

        sync(account)

        assert column("SELECT imap_uid FROM email_message WHERE is_read ORDER BY 1") == [7, 8]
        assert_counts_agree()


def test_flags_that_an_envelope_leaves_out_are_kept(server: ImapServer) -> None:
    server.inbox.set_flags(7, r"\Seen")
    account = register(server)
    sync(account)
    without_flags = rewrite(rb"FLAGS \([^)]*\) ", b"")
    server.on(r"UID FETCH .*HEADER\.FIELDS", without_flags, times=None)

    sync(account, full_since=time.time())

    assert column("SELECT imap_uid FROM email_message WHERE is_read") == [7]
