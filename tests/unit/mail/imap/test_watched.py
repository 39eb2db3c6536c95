"""What a watcher hears on a connection, and which of it is a change."""

import asyncio
from collections import deque
from typing import Any

import pytest

from tasks.errors import MailServerUnavailableError, ProtocolError
from tasks.mail.connection import Endpoint
from tasks.mail.imap.responses import FolderStatus
from tasks.mail.imap.watched import IdleRefusedError, WatchedMailbox
from tasks.mail.kinds import Encryption
from tasks.mail.session import CommandRefusedError

ENDPOINT = Endpoint("mail.example", 143, Encryption.NONE, 5, True, ())
INBOX = FolderStatus(2, 7, 3, 40)
KNOWN = {"INBOX": INBOX, "Work": FolderStatus(5, 8, 6, 41), "a b": FolderStatus(1, 9, 2, None)}


class FakeWire:
    """A server that answers each command, given by its first words, with these lines; `TAG` stands for its tag."""

    def __init__(self, **answers: list[bytes]) -> None:
        self.sent: list[bytes] = []
        self._answers = {name.replace("_", " ").encode(): deque(lines) for name, lines in answers.items()}
        self._lines: deque[bytes] = deque()
        self._tag = b""

    async def send(self, line: bytes) -> None:
        self.sent.append(line)
        tag, _, words = line.partition(b" ") if line != b"DONE" else (self._tag, b"", b"DONE")
        self._tag = tag
        for name, lines in self._answers.items():
            if words.startswith(name) and lines:
                self._lines.extend(lines.popleft().replace(b"TAG", tag).split(b"|"))
                return
        self._lines.append(tag + b" OK done")

    async def answer(self, seconds: float) -> bytes | None:
        return self._lines.popleft() if self._lines else None


def mailbox(wire: FakeWire, *capabilities: str, opened: FolderStatus = INBOX) -> tuple[WatchedMailbox, list[str]]:
    changed: list[str] = []
    made: Any = WatchedMailbox(wire, ENDPOINT, frozenset(capabilities), KNOWN, opened, changed.append)  # type: ignore[arg-type]
    return made, changed


def test_inbox_changed_if_it_was_opened_in_another_state_than_it_was_stored_in() -> None:
    assert mailbox(FakeWire())[1] == []
    assert mailbox(FakeWire(), opened=INBOX._replace(messages=3))[1] == ["INBOX"]
    assert mailbox(FakeWire(), opened=INBOX._replace(highestmodseq=41))[1] == ["INBOX"]
    assert mailbox(FakeWire(), opened=INBOX._replace(highestmodseq=None, uidnext=None))[1] == []


@pytest.mark.parametrize(
    ("line", "changes"),
    [
        (b"* 3 EXISTS", ["INBOX"]),
        (b"* 2 EXISTS", []),  # as before
        (b"* 1 expunge", ["INBOX"]),
        (b"* 1 FETCH (FLAGS (\\Seen))", ["INBOX"]),
        (b"* VANISHED 3:4", ["INBOX"]),
        (b"* 0 RECENT", []),
        (b"* OK still here", []),
        (b"what is this", []),
        (b"", []),
        (b"* STATUS Work (MESSAGES 6 UIDNEXT 7)", ["Work"]),
        (b"* STATUS Work (MESSAGES 5 UIDNEXT 6)", []),
        (b"* STATUS Work (HIGHESTMODSEQ 99 MESSAGES 5)", ["Work"]),
        (b"* STATUS {3}\r\na b (MESSAGES 2)", ["a b"]),
        (b"* STATUS Elsewhere (MESSAGES 2)", []),  # is not synced
        (b"* STATUS INBOX (MESSAGES 9)", []),  # of which the server tells
        (b"* STATUS Work (MESSAGES 99999999999999999999)", []),
    ],
)
def test_what_is_a_change(line: bytes, changes: list[str]) -> None:
    watched, changed = mailbox(FakeWire(IDLE=[b"+ idling|" + line]))
    begun: list[bool] = []
    asyncio.run(watched.idle(0.05, lambda: begun.append(True)))
    assert (changed, begun) == (changes, [True])


def test_a_state_is_told_once() -> None:
    lines = b"* STATUS Work (MESSAGES 6)|* STATUS Work (MESSAGES 6)|* 3 EXISTS|* 3 EXISTS|* 1 EXPUNGE|* 2 EXISTS"
    watched, changed = mailbox(FakeWire(IDLE=[b"+ |" + lines]))
    asyncio.run(watched.idle(0.05, lambda: None))
    assert changed == ["Work", "INBOX", "INBOX"]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"TAG BAD unknown", IdleRefusedError),
        (b"TAG NO not now", CommandRefusedError),
        (b"TAG OK why not", CommandRefusedError),
        (b"+ |TAG OK no more", CommandRefusedError),
        (b"+ |* BYE going down", MailServerUnavailableError),
        (b"W99 OK done", ProtocolError),
    ],
)
def test_a_refusal_and_an_end(answer: bytes, error: type[Exception]) -> None:
    watched, _ = mailbox(FakeWire(IDLE=[answer]))
    with pytest.raises(error) as raised:
        asyncio.run(watched.idle(0.05, lambda: None))
    assert type(raised.value) is error


def test_a_server_is_asked_to_tell_of_all_folders_with_flags_or_without() -> None:
    refuses_flags = FakeWire(NOTIFY=[b"TAG NO [BADEVENT] no flags"])
    watched, _ = mailbox(refuses_flags, "NOTIFY")
    asyncio.run(watched.ask_to_be_told())
    assert watched.tells_of_all_folders
    assert b"FlagChange" not in refuses_flags.sent[1]

    refuses = FakeWire(NOTIFY=[b"TAG BAD unknown", b"TAG BAD unknown"])
    watched, _ = mailbox(refuses, "NOTIFY")
    asyncio.run(watched.ask_to_be_told())
    assert not watched.tells_of_all_folders


def test_folders_are_looked_at_by_one_command_or_one_by_one() -> None:
    at_once = FakeWire(LIST=[b"* LIST () / Work|* STATUS Work (MESSAGES 6)|* STATUS Other (MESSAGES 1)|TAG OK done"])
    watched, changed = mailbox(at_once, "LIST-STATUS", "CONDSTORE")
    asyncio.run(watched.look_at_folders())
    assert changed == ["Work"]
    assert at_once.sent == [b'W1 LIST "" "*" RETURN (STATUS (MESSAGES UIDNEXT UIDVALIDITY HIGHESTMODSEQ))']

    refuses = FakeWire(LIST=[b"TAG BAD unknown"])
    watched, _ = mailbox(refuses, "LIST-STATUS")
    asyncio.run(watched.look_at_folders())
    assert [line.split()[1] for line in refuses.sent] == [b"LIST", b"STATUS", b"STATUS"]

    one_by_one = FakeWire(STATUS=[b"TAG NO gone", b'* STATUS "a b" (MESSAGES 1 UIDNEXT 3)|TAG OK done'])
    watched, changed = mailbox(one_by_one)
    asyncio.run(watched.look_at_folders())
    assert changed == ["a b"]
    assert [line.split(b" ", 1)[1] for line in one_by_one.sent] == [
        b'STATUS "Work" (MESSAGES UIDNEXT UIDVALIDITY)',
        b'STATUS "a b" (MESSAGES UIDNEXT UIDVALIDITY)',
    ]
