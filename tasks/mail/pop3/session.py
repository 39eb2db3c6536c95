"""A POP3 connection up to the login (RFC 1939, 2449, 2595, 5034); the only module that imports the POP3 library.

This module adds to poplib: lines may have any length, as in mail; and what all sessions share (`tasks.mail.session`).
"""

import base64
import poplib
from collections.abc import Iterator
from contextlib import suppress
from io import BufferedReader

from tasks.errors import EncryptionUnavailableError, MailServerBusyError
from tasks.mail.authenticate import log_in
from tasks.mail.connection import Endpoint, encrypted
from tasks.mail.kinds import Encryption
from tasks.mail.login import OWN_COMMAND, Login, Sasl, exchanges_for
from tasks.mail.refusal import means_busy, readable
from tasks.mail.session import MAX_WORDS_LENGTH, AnswerLimit, Cause, CommandRefusedError, WireSession
from tasks.secrecy.secrets import said

_READ_BUFFER_BYTES = 256 * 1024
# Enough for the list of some 400,000 messages.
_MAX_LISTING_BYTES = 32 * 1024 * 1024

Capabilities = dict[str, frozenset[str]]


class Pop3Session(WireSession, poplib.POP3):
    """A poplib session that reads answers of any size line by line."""

    file: BufferedReader

    def __init__(self, endpoint: Endpoint) -> None:
        self.offered: Capabilities = {}  # what the server offers after the login
        super().__init__(endpoint)
        self._enlarge_buffer()

    @staticmethod
    def cause_of(error: Exception) -> Cause | None:
        if not isinstance(error, poplib.error_proto):
            return None
        words = _said(error)
        return Cause(MailServerBusyError if means_busy(words) else CommandRefusedError, words)

    def begin_tls(self) -> None:
        """Begin TLS (STLS, RFC 2595). STLS is sent whether or not CAPA names it: a server without STLS refuses."""
        try:
            self.ask("STLS")
        except poplib.error_proto as error:
            raise EncryptionUnavailableError(f"{self.endpoint} does not offer STLS: {_words(error)}") from error
        self.sock = encrypted(self.sock, self.endpoint)
        # What arrived before the encryption is dropped, as anybody may have sent it.
        self._enlarge_buffer()

    def _enlarge_buffer(self) -> None:
        # poplib's 8 kB would take several reads for each message. Nothing is lost: the server waits for a command.
        self.file = BufferedReader(self.sock.makefile("rb", buffering=0), _READ_BUFFER_BYTES)

    def send(self, *commands: str) -> None:
        """Send commands in one write, without waiting for the answers."""
        self.sock.sendall("".join(f"{command}\r\n" for command in commands).encode())

    def answer(self) -> str:
        """Read the first line of the next answer, and return it without +OK. Raises poplib.error_proto for -ERR."""
        return self._next_answer(b"+OK")[1]

    def challenge(self) -> bytes | None:
        """Read the next answer: the SASL challenge in it, or None for +OK. Raises poplib.error_proto for -ERR."""
        kind, words = self._next_answer(b"+OK", b"+")
        with suppress(ValueError):
            return None if kind == b"+OK" else base64.b64decode(words)
        return b""  # a challenge that is no base64 counts as empty

    def _next_answer(self, *expected: bytes) -> tuple[bytes, str]:
        line = self.file.readline(_READ_BUFFER_BYTES)
        if not line.endswith(b"\n"):
            raise ConnectionAbortedError("the connection ended")
        if line.startswith(b"-ERR"):
            raise poplib.error_proto(line.rstrip())
        kind, _, words = line.rstrip().partition(b" ")
        if kind not in expected:
            raise ValueError(f"where an answer should begin came {kind!r}")
        return kind, _readable(words)

    def refusal(self) -> str | None:
        """Read the next answer: None for +OK, else the server's words."""
        try:
            self.answer()
        except poplib.error_proto as error:
            return _words(error)
        return None

    def lines(self) -> Iterator[bytes]:
        """The lines that follow an answer, with their ends, up to the one that ends it (RFC 1939 section 3).

        A line longer than the buffer comes in pieces. The caller
        has to read all lines before it sends another command.
        """
        begins = True
        while True:
            line = self.file.readline(_READ_BUFFER_BYTES)
            if not line:
                raise ConnectionAbortedError("the connection ended in an answer")
            if begins and line.startswith(b"."):
                if line in (b".\r\n", b".\n"):
                    return
                line = line[1:]
            yield line
            begins = line.endswith(b"\n")

    def ask(self, command: str) -> str:
        """Send one command. Returns the first line of the answer without +OK. Raises poplib.error_proto for -ERR."""
        self.send(command)
        return self.answer()

    def listing(self, command: str) -> list[list[bytes]]:
        """The words of each line of an answer. Raises poplib.error_proto for -ERR."""
        self.ask(command)
        limit = AnswerLimit(_MAX_LISTING_BYTES)
        listed = []
        for line in self.lines():
            limit.count(len(line))
            listed.append(line.split())
        return listed

    def listing_if_known(self, command: str) -> list[list[bytes]] | None:
        """As `listing`, but None where the server refuses the command."""
        try:
            return self.listing(command)
        except poplib.error_proto:
            return None

    def capabilities(self) -> Capabilities:
        """The capabilities that CAPA names (RFC 2449), in upper case,
        with arguments; empty where the server does not know CAPA."""
        words = self.listing_if_known("CAPA") or ()
        upper = (b" ".join(line).decode("latin-1").upper().split() for line in words)
        return {name: frozenset(rest) for name, *rest in filter(None, upper)}

    def ask_to_end(self) -> None:
        self.ask("QUIT")

    def close_socket(self) -> None:
        self.close()

    def log_in(self, login: Login) -> str:
        with self.translating_errors("logging in"):
            offered = self.capabilities()
            if "UTF8" in offered:
                # Without UTF8, mail with addresses or headers beyond ASCII arrives as a notice that it cannot be
                # shown. The command must come before the login (RFC 6856 section 2). A refusal does not matter.
                self.send("UTF8")
                self.refusal()
        mechanisms = offered.get("SASL", frozenset())
        exchanges = exchanges_for(login, self.endpoint, mechanisms, has_command=not offered or "USER" in offered)
        if not exchanges and self.endpoint.encryption == Encryption.NONE:
            raise EncryptionUnavailableError(f"{self.endpoint} allows no login without encryption")
        # Some servers do not offer USER and take it all the same.
        exchanges = exchanges or exchanges_for(login, self.endpoint, mechanisms, has_command=True)
        mechanism = log_in(exchanges, lambda sasl: self._attempt(login, sasl), self.endpoint, login)
        with self.translating_errors("logging in"):
            # The server may offer more after the login (RFC 2449 section 5).
            self.offered = self.capabilities()
        return mechanism

    def _attempt(self, login: Login, sasl: Sasl) -> str | None:
        """Make one exchange. Returns the server's words if it refuses, else None."""
        with self.translating_errors("logging in"):
            try:
                if sasl.mechanism == OWN_COMMAND:
                    self.ask(f"USER {login.username}")
                    self.ask(f"PASS {login.secret}")
                else:
                    self._authenticate(sasl)
            except poplib.error_proto as error:
                return _said(error)
        return None

    def _authenticate(self, sasl: Sasl) -> None:
        """Send AUTH (RFC 5034). The response waits for the server's
        challenge, because it may be too long for the command's line."""
        self.send(f"AUTH {sasl.mechanism}")
        number = 0
        while (challenge := self.challenge()) is not None:
            if number > len(sasl.responses):
                raise ValueError("it asks for more than the mechanism has to say")
            response = sasl.response(number, challenge)
            self.send("*" if response is None else base64.b64encode(response).decode())
            number += 1


def _words(error: poplib.error_proto) -> str:
    """The server's words, as they may be shown to a person."""
    return said(_said(error), MAX_WORDS_LENGTH)


def _said(error: poplib.error_proto) -> str:
    """The complete words of the server, which poplib keeps as bytes."""
    kept = error.args[0] if error.args else b""
    text = _readable(kept) if isinstance(kept, bytes) else str(kept)
    return text.removeprefix("-ERR").strip() or "no reason given"


def _readable(words: bytes) -> str:
    # NUL is replaced, because PostgreSQL does not take it.
    return readable(words).replace("\0", "\ufffd").strip()
