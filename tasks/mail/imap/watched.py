"""What a watcher says and hears on an IMAP connection whose INBOX is open: IDLE, NOTIFY, and the states of folders.

    IDLE (RFC 2177)     the server tells of changes of INBOX as they happen
    NOTIFY (RFC 5465)   where offered: of all folders
    LIST-STATUS         else the states of the folders are asked for at an interval, by one command (RFC 5819), or by
                        one STATUS for each folder

A change is a state that differs from the known one. What changed is not asked for: the sync finds out.
"""

import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from tasks.errors import MailServerUnavailableError, ProtocolError
from tasks.mail.connection import Endpoint
from tasks.mail.imap.folders import wire_path
from tasks.mail.imap.responses import FolderStatus, Line, read_status
from tasks.mail.imap.wire import Wire
from tasks.mail.session import CommandRefusedError
from tasks.secrecy.secrets import said

INBOX = "INBOX"
_MAX_WORDS_LENGTH = 200
# How many folders are looked at one by one, on a server without LIST-STATUS.
_MAX_FOLDERS = 100
_ABOUT_A_MESSAGE = re.compile(rb"\* +(\d{1,10}) +(EXISTS|EXPUNGE|FETCH)\b", re.IGNORECASE)
_NAMED = re.compile(rb"\* +(STATUS|VANISHED|BYE|LIST)\b *", re.IGNORECASE)
_TAGGED = re.compile(rb"(W\d+) +(OK|NO|BAD)(?: (.*))?", re.IGNORECASE | re.DOTALL)
_LITERAL = re.compile(rb"\{(\d{1,9})\+?\}\r?\n")
# With changes of flags; and without, as some servers tell of them only for folders with mod-sequences.
_EVENTS = ("MessageNew MessageExpunge FlagChange", "MessageNew MessageExpunge")


class IdleRefusedError(CommandRefusedError):
    """The server offers IDLE and does not know it."""


class WatchedMailbox:
    """A logged-in connection with INBOX open read-only.

    `known` has the states of folders by path as they were last stored, `opened` that of INBOX when it was opened.
    `changed` is called with the path of a folder that changed.
    """

    def __init__(
        self,
        wire: Wire,
        endpoint: Endpoint,
        capabilities: frozenset[str],
        known: Mapping[str, FolderStatus],
        opened: FolderStatus,
        changed: Callable[[str], None],
    ) -> None:
        self._wire, self._endpoint, self._capabilities = wire, endpoint, capabilities
        self._known, self._messages, self._changed = dict(known), opened.messages, changed
        self._commands, self._outcome = 0, b""
        self.tells_of_all_folders = False
        self._compare(INBOX, opened)

    async def ask_to_be_told(self) -> None:
        """Have the server tell of all folders, if it can (NOTIFY)."""
        if "NOTIFY" not in self._capabilities:
            return
        for events in _EVENTS:
            with suppress(CommandRefusedError):
                await self._command(f"NOTIFY SET (SELECTED ({events})) (PERSONAL ({events}))".encode())
                self.tells_of_all_folders = True
                return

    async def look_at_folders(self) -> None:
        """Ask for the states of the folders, and tell of those that differ from the known ones."""
        items = "MESSAGES UIDNEXT UIDVALIDITY" + (" HIGHESTMODSEQ" if "CONDSTORE" in self._capabilities else "")
        if "LIST-STATUS" in self._capabilities:
            with suppress(CommandRefusedError):
                await self._command(f'LIST "" "*" RETURN (STATUS ({items}))'.encode())
                return
        for path in [path for path in self._known if path != INBOX][:_MAX_FOLDERS]:
            # A folder that is gone, or that cannot be asked for, is for the sync to find out.
            with suppress(CommandRefusedError, ValueError):
                await self._command(b"STATUS " + wire_path(path) + f" ({items})".encode())

    async def idle(self, seconds: float, begun: Callable[[], None]) -> None:
        """Be told of changes for so many seconds. `begun` is called when the server has agreed.

        Raises IdleRefusedError if the server answers BAD, CommandRefusedError if it refuses or ends IDLE otherwise,
        and MailServerUnavailableError if the connection ends.
        """
        tag = await self._send(b"IDLE")
        deadline = time.monotonic() + self._endpoint.timeout
        while not (line := await self._heard(deadline)).startswith(b"+"):
            if (refusal := self._take(line, tag)) is not None:
                kind = IdleRefusedError if self._outcome == b"BAD" else CommandRefusedError
                raise kind(f"{self._endpoint} refuses IDLE: {refusal}")
        begun()
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and (
            line_or_none := await self._wire.answer(left)
        ) is not None:
            if (outcome := self._take(line_or_none, tag)) is not None:
                raise CommandRefusedError(f"{self._endpoint} ends IDLE: {outcome}")
        await self._wire.send(b"DONE")
        await self._finish(tag)

    def close(self) -> None:
        """Leave, without a wait for the server."""
        self._wire.close(b"DONE\r\nW0 LOGOUT")

    async def _command(self, words: bytes) -> None:
        """Raises CommandRefusedError where the server answers NO or BAD."""
        refusal = await self._finish(await self._send(words))
        if refusal:
            raise CommandRefusedError(refusal)

    async def _send(self, words: bytes) -> bytes:
        self._commands += 1
        tag = f"W{self._commands}".encode()
        await self._wire.send(tag + b" " + words)
        return tag

    async def _finish(self, tag: bytes) -> str:
        """Read up to the answer to a command. Returns the words of a refusal; empty for OK."""
        deadline = time.monotonic() + self._endpoint.timeout
        while (outcome := self._take(await self._heard(deadline), tag)) is None:
            pass
        return outcome

    async def _heard(self, deadline: float) -> bytes:
        line = await self._wire.answer(max(0.0, deadline - time.monotonic()))
        if line is None:
            raise MailServerUnavailableError(f"watching, {self._endpoint}: no answer in time")
        return line

    def _take(self, line: bytes, tag: bytes) -> str | None:
        """Read one answer. Returns None unless it ends the command with this tag: then the words of a refusal, which
        are empty for OK. A line that cannot be read is skipped."""
        if match := _TAGGED.fullmatch(line):
            if match[1] != tag:
                raise ProtocolError(f"{self._endpoint} answers a command that was not sent")
            self._outcome = match[2].upper()
            if self._outcome == b"OK":
                return ""
            return said((match[3] or b"").decode("utf-8", "replace"), _MAX_WORDS_LENGTH) or "no reason given"
        if match := _ABOUT_A_MESSAGE.match(line):
            self._take_number(int(match[1]), match[2].upper())
        elif match := _NAMED.match(line):
            self._take_named(match[1].upper(), line[match.end() :])
        return None

    def _take_number(self, number: int, word: bytes) -> None:
        if word == b"EXISTS":
            if number == self._messages:
                return  # said again, as some servers do each time
            self._messages = number
        elif word == b"EXPUNGE":
            self._messages -= 1
        self._changed(INBOX)

    def _take_named(self, word: bytes, rest: bytes) -> None:
        if word == b"BYE":
            words = said(rest.decode("utf-8", "replace"), _MAX_WORDS_LENGTH)
            raise MailServerUnavailableError(f"{self._endpoint} says goodbye: {words}")
        if word == b"VANISHED":
            self._messages = -1  # how many are left is not said, so the next EXISTS counts as a change
            self._changed(INBOX)
        if word == b"STATUS":
            for path, status in read_status(_lines(rest)):
                if path.upper() != INBOX:  # of which the server tells
                    self._compare(path, status)

    def _compare(self, path: str, status: FolderStatus) -> None:
        known = self._known.get(path)
        if known is None:
            return  # a folder that is not synced; a new one comes with the next sync of the account
        is_other = any(
            new is not None and old is not None and new != old
            for new, old in (
                (status.messages, known.messages),
                (status.uidvalidity or None, known.uidvalidity),
                (status.uidnext, known.uidnext),
                (status.highestmodseq, known.highestmodseq),
            )
        )
        self._known[path] = FolderStatus(
            status.messages,
            status.uidvalidity or known.uidvalidity,
            status.uidnext or known.uidnext,
            status.highestmodseq or known.highestmodseq,
        )
        if is_other:
            self._changed(path)


def _lines(rest: bytes) -> list[Line]:
    """An answer as imaplib gives it: pairs of the text before a literal and the literal, then the rest."""
    lines: list[Line] = []
    while match := _LITERAL.search(rest):
        end = match.end() + int(match[1])
        lines.append((rest[: match.end()].rstrip(b"\r\n"), rest[match.end() : end]))
        rest = rest[end:]
    return [*lines, rest]
