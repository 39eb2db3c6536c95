"""An IMAP connection up to the login; the only module that imports the IMAP library.

The library is imaplib, because it reads several times as fast as libraries that are built on it
(docs/decisions/0001). This module adds to imaplib: answers to a FETCH are handed out as they arrive, literals that
are too large are not kept, and what all sessions share (`tasks.mail.session`).
"""

import imaplib
import logging
import re
import socket
from collections.abc import Callable, Iterator
from typing import Any

from tasks.errors import EncryptionUnavailableError, FolderReadOnlyError, MailServerUnavailableError, ProtocolError
from tasks.mail.authenticate import log_in
from tasks.mail.connection import Endpoint, encrypted
from tasks.mail.imap.folders import quote
from tasks.mail.imap.responses import Line
from tasks.mail.kinds import Encryption
from tasks.mail.login import OWN_COMMAND, Login, Sasl, exchanges_for
from tasks.mail.refusal import readable
from tasks.mail.session import MAX_WORDS_LENGTH, AnswerLimit, Cause, CommandRefusedError, WireSession
from tasks.secrecy.secrets import said

_READ_BUFFER_BYTES = 256 * 1024

# No message has this size. A server that announces a literal of this size is out of step.
_ABSURD_LITERAL = 2**31

# How many bytes imaplib may collect for one answer, besides messages: enough for 100,000 folders with their states.
_MAX_ANSWER_BYTES = 16 * 1024 * 1024

_MAX_SHOWN_LENGTH = 40

# An untagged answer (RFC 9051 section 7), with words in any case.
_UNTAGGED = re.compile(rb"\* +(?:(\d+) +)?([a-z][a-z0-9-]*)(?: +(.*))?", re.IGNORECASE | re.DOTALL)
_TAGGED = re.compile(rb"([A-Z0-9.]+) +(OK|NO|BAD)(?: (.*))?", re.IGNORECASE | re.DOTALL)
# The code in brackets before the words of an OK, NO or BAD. It holds a bracket itself only within parentheses.
_CODE = re.compile(rb" *\[([a-z][a-z0-9.-]*)(?: ((?:\([^)]*\)|[^]])*))?\]", re.IGNORECASE)
_LITERAL = re.compile(rb"\{(\d+)\+?\}\Z")
# A number of more digits is no length, and more lines in a row that are no answers mean a server that is out of step.
_MAX_DIGITS = 20
_MAX_UNREAD_LINES = 100
# How many empty lines may follow a message, as some servers write them.
_MAX_EMPTY_LINES = 4

logger = logging.getLogger(__name__)


class NotUnderstoodError(CommandRefusedError):
    """The mail server answered BAD: it does not know the command, or some of it."""


def first_words(lines: list[Line]) -> str:
    """The server's words about an outcome, unchanged. Code that shows them must use `secrecy.secrets.said`."""
    for line in lines:
        if isinstance(line, bytes):
            return readable(line)
    return "no reason given"


class ImapSession(WireSession, imaplib.IMAP4):
    """An imaplib session that hands out the answers to a UID FETCH
    as they arrive, and keeps no literal that is too large."""

    # Attributes of imaplib, where they have no types.
    tagpre: Any
    tagged_commands: Any
    continuation_response: Any
    untagged_responses: Any
    _check_bye: Callable[[], None]
    _command: Callable[..., bytes]
    _get_line: Callable[[], bytes]
    _append_untagged: Callable[[str, Line], None]

    def __init__(self, endpoint: Endpoint, max_literal: int) -> None:
        self._max_literal = max_literal
        self._limit = AnswerLimit(_MAX_ANSWER_BYTES + max_literal)
        self.unread_lines = 0
        super().__init__(endpoint)

    @staticmethod
    def cause_of(error: Exception) -> Cause | None:
        match error:
            case imaplib.IMAP4.readonly():
                return Cause(FolderReadOnlyError, "")
            case imaplib.IMAP4.abort():
                words = str(error) or "the connection ended"
                is_out_of_step = any(sign in words for sign in ("unexpected", "unterminated", "literal", "more than"))
                return Cause(ProtocolError if is_out_of_step else MailServerUnavailableError, words)
            case imaplib.IMAP4.error():
                return Cause(CommandRefusedError, str(error))
        return None

    def open(self, *args: Any, **options: Any) -> None:
        super().open(*args, **options)
        self._enlarge_buffer()

    def _enlarge_buffer(self) -> None:
        # imaplib's 8 kB would take several reads for each message.
        setattr(self, self._file_name, self.sock.makefile("rb", buffering=_READ_BUFFER_BYTES))

    @property
    def _file_name(self) -> str:
        return "file" if "file" in vars(self) else "_file"  # from Python 3.14 on

    def hand_over(self) -> tuple[socket.socket, bytes]:
        """The socket, which does not block any more, and what was read from it beyond the last answer."""
        connected, self.sock = self.sock, None
        connected.setblocking(False)
        reader = getattr(self, self._file_name)
        try:
            received = reader.peek()
        except OSError:  # nothing was read beyond; TLS says so by an error, and a connection that ended says so again
            received = b""
        reader.close()
        return connected, received

    def stream_uid_fetch(self, uids: str, items: str) -> Iterator[list[Line]]:
        """Send a UID FETCH and yield the answers as they arrive. (imaplib would collect all of them first.)"""
        tag = self._command("UID", "FETCH", uids, items)
        while self.tagged_commands[tag] is None:
            self._check_bye()
            self._get_response()
            if lines := self.untagged_responses.pop("FETCH", None):
                self._limit.begin_answer()
                yield lines
        outcome, answer = self._command_complete("UID", tag)
        if outcome != "OK":
            raise CommandRefusedError(said(first_words(answer), MAX_WORDS_LENGTH))

    def _get_capabilities(self) -> None:
        """Read what the server offers.

        A server that offers nothing, or IMAP4rev2 alone, is used like one with IMAP4rev1.
        """
        try:
            _, lines = self.capability()
        except imaplib.IMAP4.abort:
            raise
        except imaplib.IMAP4.error:
            lines = []
        words = b" ".join(line for line in lines if isinstance(line, bytes)).decode("latin-1").upper()
        self.capabilities = ("IMAP4REV1", *words.split())

    def _get_response(self, *_: object) -> bytes | None:
        """Read one answer; None for a request to go on.

        Replaces imaplib's method, which ends the connection at a word in lower case or at a line that is no answer.
        Here such a line is skipped and counted in `unread_lines`.
        """
        line = self._get_line()
        if line.startswith(b"*") and (match := _UNTAGGED.fullmatch(line)):
            number, word, rest = match.groups()
            kind = word.decode().upper()
            data = self._with_literals(kind, (number + b" " + rest if rest else number) if number else rest or b"")
            self._append_untagged(kind, data)
            self._keep_code(kind, data)
        elif match := _TAGGED.fullmatch(line):
            tag, word, rest = match.groups()
            if tag not in self.tagged_commands:
                raise imaplib.IMAP4.abort(f"unexpected answer {line!r}")
            self.tagged_commands[tag] = (word.decode().upper(), [rest or b""])
            self._keep_code(word.decode().upper(), rest or b"")
        elif line.startswith(self.tagpre):
            raise imaplib.IMAP4.abort(f"unexpected answer {line!r}")
        elif line[:1] == b"+":
            self.continuation_response = line[2:]
            return None
        else:
            self._pass_over(line)
        return line or b"\r\n"

    def _pass_over(self, line: bytes) -> None:
        self.unread_lines += 1
        if self.unread_lines > _MAX_UNREAD_LINES:
            raise imaplib.IMAP4.abort(f"more than {_MAX_UNREAD_LINES} lines that are no answer")
        is_untagged = line.startswith(b"* ")
        # Lines that are no untagged answer may be a piece of somebody's mail, so only their length is logged.
        shown = said(repr(line), _MAX_SHOWN_LENGTH) if is_untagged else f"{len(line)} bytes"
        logger.warning("%s sent a line that is no answer: %s", self.endpoint, shown)
        if is_untagged:
            self._with_literals("", line)

    def _command_complete(self, name: str, tag: bytes) -> tuple[str, list[Line]]:
        try:
            completed: tuple[str, list[Line]] = super()._command_complete(name, tag)  # type: ignore[misc]
        except imaplib.IMAP4.abort:
            raise
        except imaplib.IMAP4.error as error:
            if self.state in ("AUTH", "SELECTED"):
                raise NotUnderstoodError(said(str(error), MAX_WORDS_LENGTH)) from error
            raise
        return completed

    def _with_literals(self, kind: str, data: bytes) -> bytes:
        """Read the literals of an answer, and keep them if the answer has a kind.

        Returns the text after the last literal.
        """
        while match := _LITERAL.search(data):
            if len(match[1]) > _MAX_DIGITS:
                raise imaplib.IMAP4.abort(f"a literal of {len(match[1])} digits was announced")
            literal = self.read(int(match[1]))
            if kind:
                self._append_untagged(kind, (data, literal))
            data = self._get_line()
            if kind == "FETCH" and not data.strip():
                data = self._after_empty_lines(data)
        return data

    def _after_empty_lines(self, data: bytes) -> bytes:
        for _ in range(_MAX_EMPTY_LINES):
            line = self._get_line()
            if line.startswith((b"* ", self.tagpre)):
                break
            data += b"\r\n" + line
            if line.strip():
                return data
        raise imaplib.IMAP4.abort("an answer did not end after a literal; its length was wrong")

    def _keep_code(self, kind: str, words: bytes) -> None:
        if kind in ("OK", "NO", "BAD") and (match := _CODE.match(words)):
            self._append_untagged(match[1].decode().upper(), match[2])

    def send(self, data: Any) -> None:
        self._limit.begin_answer()
        super().send(data)

    def readline(self) -> bytes:
        line = super().readline()
        self._limit.count(len(line))
        if not line.endswith(b"\r\n") and line.endswith(b"\n"):
            return line[:-1] + b"\r\n"  # mailutils ends some lines with LF alone, which imaplib does not take
        return line

    def read(self, size: int) -> bytes:
        if size <= self._max_literal:
            self._limit.count(size)
            return super().read(size)
        if size > _ABSURD_LITERAL:
            raise imaplib.IMAP4.abort(f"a literal of {size} bytes was announced")
        while size:
            chunk = super().read(min(size, _READ_BUFFER_BYTES))
            if not chunk:
                raise imaplib.IMAP4.abort("the connection ended in a literal")
            size -= len(chunk)
        return b""

    def ask_to_end(self) -> None:
        self.logout()

    def close_socket(self) -> None:
        self.shutdown()

    def begin_tls(self) -> None:
        if "STARTTLS" not in self.capabilities:
            raise EncryptionUnavailableError(f"{self.endpoint} does not offer STARTTLS")
        try:
            outcome, lines = self.xatom("STARTTLS")
        except imaplib.IMAP4.abort:
            raise
        except imaplib.IMAP4.error as error:
            raise EncryptionUnavailableError(f"{self.endpoint} refuses STARTTLS") from error
        if outcome != "OK":
            words = said(first_words(lines), MAX_WORDS_LENGTH)
            raise EncryptionUnavailableError(f"{self.endpoint} refuses STARTTLS: {words}")
        self.sock = encrypted(self.sock, self.endpoint)
        # What arrived before the encryption is dropped, as anybody may have sent it (RFC 9051 section 11.1).
        self.untagged_responses = {}
        self._enlarge_buffer()
        self._get_capabilities()

    def log_in(self, login: Login) -> str:
        """Log in and return the mechanism: "none" if the server greets us as logged in already."""
        if self.state != "NONAUTH":
            return "none"
        offered = {name.removeprefix("AUTH=") for name in self.capabilities if name.startswith("AUTH=")}
        is_disabled = "LOGINDISABLED" in self.capabilities
        if is_disabled and self.endpoint.encryption == Encryption.NONE:
            offered &= {"CRAM-MD5"}  # CRAM-MD5 sends no password
            if not offered or login.method == "oauth2":
                raise EncryptionUnavailableError(f"{self.endpoint} allows no login without encryption")
        # If the server offers nothing and says LOGINDISABLED all the same, LOGIN is tried.
        exchanges = exchanges_for(login, self.endpoint, offered, has_command=not is_disabled)
        exchanges = exchanges or exchanges_for(login, self.endpoint, offered, has_command=True)
        return log_in(exchanges, lambda sasl: self._attempt(login, sasl), self.endpoint, login)

    def _attempt(self, login: Login, sasl: Sasl) -> str | None:
        """Make one exchange. Returns the server's words if it refuses, else None."""
        challenges: list[bytes] = []

        def answer(challenge: bytes) -> bytes | None:
            if len(challenges) > len(sasl.responses):
                raise imaplib.IMAP4.abort("unexpected challenges")
            challenges.append(challenge)
            return sasl.response(len(challenges) - 1, challenge)  # None cancels the exchange

        with self.translating_errors("logging in"):
            try:
                if sasl.mechanism == OWN_COMMAND:
                    self._log_in_by_command(login)
                else:
                    self.authenticate(sasl.mechanism, answer)
            except imaplib.IMAP4.abort:
                raise
            except imaplib.IMAP4.error as error:
                reasons = b" ".join(challenges[1:]) if sasl.client_first else b""
                return f"{error} {reasons.decode('utf-8', 'replace')}".strip()
        return None

    def _log_in_by_command(self, login: Login) -> None:
        """LOGIN with quoted strings; imaplib's own takes ASCII only."""
        words: Any = (quote(login.username).encode(), quote(login.secret).encode())
        outcome, lines = self.xatom("LOGIN", *words)
        if outcome != "OK":
            raise imaplib.IMAP4.error(first_words(lines))
        self.state = "AUTH"
