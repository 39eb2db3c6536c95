"""A POP3 connection up to the login (RFC 1939, 2449, 2595, 5034); the only module that imports the POP3 library.

This module adds to poplib: lines may have any length, as in mail; sockets come from `tasks.mail.connection`; errors
are translated into EmailErrors.
"""

import base64
import poplib
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from typing import Any

from tasks.errors import (
    EncryptionUnavailableError,
    MailServerBusyError,
    MailServerUnavailableError,
    ProtocolError,
)
from tasks.mail import connection
from tasks.mail.authenticate import learn_login, log_in
from tasks.mail.connection import Endpoint, open_socket, tls_context
from tasks.mail.kinds import Encryption
from tasks.mail.login import OWN_COMMAND, Login, Sasl, exchanges_for
from tasks.mail.refusal import means_busy, readable
from tasks.secrecy.secrets import said

_READ_BUFFER_BYTES = 256 * 1024
_MAX_WORDS_LENGTH = 200
# Enough for the list of some 400,000 messages.
_MAX_LISTING_BYTES = 32 * 1024 * 1024

Capabilities = dict[str, frozenset[str]]


class RefusedError(ProtocolError):
    """The mail server refused what was asked for."""


def open_session(endpoint: Endpoint, login: Login) -> tuple["Session", Capabilities]:
    """Connect, encrypt as the endpoint says, and log in. Returns the session, and the server's capabilities."""
    with translated(endpoint, "connecting"), _greeted(endpoint):
        session = _connect(endpoint)
    try:
        learn_login(login, endpoint)
        session.mechanism = _log_in(session, endpoint, login)
        with translated(endpoint, "logging in"):
            # The server may offer more after the login (RFC 2449 section 5).
            return session, session.capabilities()
    except BaseException:
        session.abandon()
        raise


@contextmanager
def translated(endpoint: Endpoint, doing: str) -> Iterator[None]:
    """Translate errors of the library and the network into EmailErrors."""
    where = f"{doing}, {endpoint}"
    with connection.translated(endpoint, doing):
        try:
            yield
        except poplib.error_proto as error:
            kind = MailServerBusyError if means_busy(_said(error)) else RefusedError
            raise kind(f"{where}: {_words(error)}") from error


class Session(poplib.POP3):
    """A poplib session that reads answers of any size line by line."""

    sock: Any
    file: BufferedReader

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self.mechanism = ""  # with which this session logged in
        super().__init__(endpoint.hostname, endpoint.port, timeout=endpoint.timeout)
        self._enlarge_buffer()

    def _create_socket(self, _timeout: float | None) -> socket.socket:
        return open_socket(self._endpoint)

    def encrypt(self) -> None:
        """Begin TLS (STLS, RFC 2595).

        Bytes that arrived before the encryption are dropped, as anybody may have sent them.
        """
        self.ask("STLS")
        context = tls_context(self._endpoint)
        self.sock = context.wrap_socket(self.sock, server_hostname=self._endpoint.hostname)
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
        left = _MAX_LISTING_BYTES
        listed = []
        for line in self.lines():
            left -= len(line)
            if left < 0:
                raise ValueError(f"{command} is answered by more than {_MAX_LISTING_BYTES} bytes")
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

    def say_goodbye(self) -> None:
        """Send QUIT, ignore the answer, and close. Never raises."""
        with suppress(poplib.error_proto, OSError, ValueError):
            self.ask("QUIT")
        self.abandon()

    def abandon(self) -> None:
        """Close at once and without QUIT, so that nothing is deleted; never raises."""
        if self.sock is None:
            return
        with suppress(OSError):
            # Shut the socket down first, and not with the TLS socket's own method (see tasks/mail/imap/session.py).
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)
        with suppress(OSError):
            self.close()


class _TlsSession(Session):
    def _create_socket(self, timeout: float | None) -> socket.socket:
        plain = super()._create_socket(timeout)
        return tls_context(self._endpoint).wrap_socket(plain, server_hostname=self._endpoint.hostname)


def _connect(endpoint: Endpoint) -> Session:
    if endpoint.encryption == Encryption.TLS:
        return _TlsSession(endpoint)
    session = Session(endpoint)
    if endpoint.encryption == Encryption.STARTTLS:
        try:
            # STLS is sent whether or not CAPA names it: a server without STLS refuses.
            session.encrypt()
        except BaseException as error:
            session.abandon()
            if isinstance(error, poplib.error_proto):
                raise EncryptionUnavailableError(f"{endpoint} does not offer STLS: {_words(error)}") from error
            raise
    return session


@contextmanager
def _greeted(endpoint: Endpoint) -> Iterator[None]:
    """Translate a greeting that is -ERR or nonsense into MailServerUnavailableError."""
    try:
        yield
    except poplib.error_proto as error:
        kind = MailServerBusyError if means_busy(_said(error)) else MailServerUnavailableError
        raise kind(f"connecting, {endpoint}: {_words(error)}") from error


def _log_in(session: Session, endpoint: Endpoint, login: Login) -> str:
    """Log in and return the mechanism."""
    with translated(endpoint, "logging in"):
        offered = session.capabilities()
        if "UTF8" in offered:
            # Without UTF8, mail with addresses or headers beyond ASCII arrives as a notice that it cannot be shown.
            # The command must come before the login (RFC 6856 section 2). A refusal does not matter.
            session.send("UTF8")
            session.refusal()
    mechanisms = offered.get("SASL", frozenset())
    exchanges = exchanges_for(login, endpoint, mechanisms, has_command=not offered or "USER" in offered)
    if not exchanges and endpoint.encryption == Encryption.NONE:
        raise EncryptionUnavailableError(f"{endpoint} allows no login without encryption")
    # Some servers do not offer USER and take it all the same.
    exchanges = exchanges or exchanges_for(login, endpoint, mechanisms, has_command=True)
    return log_in(exchanges, lambda sasl: _attempt(session, endpoint, login, sasl), endpoint, login)


def _attempt(session: Session, endpoint: Endpoint, login: Login, sasl: Sasl) -> str | None:
    """Make one exchange. Returns the server's words if it refuses, else None."""
    with translated(endpoint, "logging in"):
        try:
            if sasl.mechanism == OWN_COMMAND:
                session.ask(f"USER {login.username}")
                session.ask(f"PASS {login.secret}")
            else:
                _authenticate(session, sasl)
        except poplib.error_proto as error:
            return _said(error)
    return None


def _authenticate(session: Session, sasl: Sasl) -> None:
    """Send AUTH (RFC 5034). The response waits for the server's
    challenge, because it may be too long for the command's line."""
    session.send(f"AUTH {sasl.mechanism}")
    number = 0
    while (challenge := session.challenge()) is not None:
        if number > len(sasl.responses):
            raise ValueError("it asks for more than the mechanism has to say")
        response = sasl.response(number, challenge)
        session.send("*" if response is None else base64.b64encode(response).decode())
        number += 1


def _words(error: poplib.error_proto) -> str:
    """The server's words, as they may be shown to a person."""
    return said(_said(error), _MAX_WORDS_LENGTH)


def _said(error: poplib.error_proto) -> str:
    """The complete words of the server, which poplib keeps as bytes."""
    kept = error.args[0] if error.args else b""
    text = _readable(kept) if isinstance(kept, bytes) else str(kept)
    return text.removeprefix("-ERR").strip() or "no reason given"


def _readable(words: bytes) -> str:
    # NUL is replaced, because PostgreSQL does not take it.
    return readable(words).replace("\0", "\ufffd").strip()
