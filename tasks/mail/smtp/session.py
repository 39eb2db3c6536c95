"""An SMTP connection up to the login; the only module that imports the SMTP library.

This module adds to smtplib: sockets come from `tasks.mail.connection`, passwords and tokens may have any characters,
errors are translated into EmailErrors, and after an answer that cannot be understood no more commands are sent.
"""

import smtplib
import socket
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from tasks.errors import (
    EncryptionUnavailableError,
    MailServerBusyError,
    MailServerUnavailableError,
    PermanentError,
    ProtocolError,
)
from tasks.mail import connection
from tasks.mail.authenticate import learn_login, log_in
from tasks.mail.connection import Endpoint, open_socket, tls_context
from tasks.mail.kinds import Encryption
from tasks.mail.login import Login, Sasl, exchanges_for
from tasks.mail.parse.charset import storable
from tasks.mail.refusal import readable
from tasks.secrecy.secrets import said

_MAX_WORDS_LENGTH = 300
_MAX_REPLY_LENGTH = 4096
_MAX_ANSWER_BYTES = 1024 * 1024
_CHALLENGE = 334
_CLOSING = 421


class Reply(NamedTuple):
    """A server's reply (RFC 5321 section 4.2). As a string it has only what may be shown."""

    code: int
    text: str

    @property
    def is_positive(self) -> bool:
        """Whether the server did what the command asked."""
        return 200 <= self.code < 300

    @property
    def is_passing(self) -> bool:
        """Whether the server refused for now, but may do it later."""
        return 400 <= self.code < 500

    @property
    def is_final(self) -> bool:
        """Whether the server refused for good."""
        return 500 <= self.code < 600

    def __str__(self) -> str:
        return f"{self.code} {said(self.text, _MAX_WORDS_LENGTH)}"


def open_session(endpoint: Endpoint, login: Login) -> "Session":
    """Connect, encrypt as the endpoint says, and log in. Raises an EmailError that says what happened."""
    with translated(endpoint, "connecting"):
        session = (_TlsSession if endpoint.encryption == Encryption.TLS else Session)(endpoint)
    try:
        with translated(endpoint, "connecting"):
            _greet(session, endpoint)
        learn_login(login, endpoint)
        session.mechanism = _log_in(session, endpoint, login)
    except BaseException:
        session.abandon()
        raise
    return session


@contextmanager
def translated(endpoint: Endpoint, doing: str) -> Iterator[None]:
    """Translate errors of the library and the network into EmailErrors."""
    with connection.translated(endpoint, doing):
        try:
            yield
        except smtplib.SMTPConnectError as error:
            reply = _as_reply(error.smtp_code, error.smtp_error)
            kind = MailServerUnavailableError if reply.is_final else MailServerBusyError
            raise kind(f"{endpoint} greets with {reply}") from error
        except smtplib.SMTPResponseException as error:
            raise MailServerUnavailableError(
                f"{doing}, {endpoint}: {said(_words(error.smtp_error), _MAX_WORDS_LENGTH)}"
            ) from error


class Session(smtplib.SMTP):
    """An smtplib session that takes its socket from `tasks.mail.connection`
    and asks no name server for the host's own name."""

    sock: socket.socket  # None only before the session connects

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self.is_usable = True
        self.mechanism = ""  # with which this session logged in
        super().__init__(endpoint.hostname, endpoint.port, local_hostname="localhost", timeout=endpoint.timeout)
        address = self.sock.getsockname()[0]
        self.local_hostname = f"[IPv6:{address}]" if ":" in address else f"[{address}]"

    def _get_socket(self, _host: str, _port: int, _timeout: float) -> socket.socket:
        return open_socket(self._endpoint)

    def getreply(self) -> tuple[int, bytes]:
        """As smtplib's, but with a limit to the length of an answer."""
        if self.file is None:
            self.file = _Lines(self._endpoint, self.sock)
        self.file.begin_answer()
        return super().getreply()

    def command(self, command: str) -> Reply:
        """Send a command and return the reply."""
        self.send(line(command))
        return self.reply()

    def reply(self) -> Reply:
        """Read the next reply. Raises ProtocolError for lines that are no reply."""
        reply = _as_reply(*self.getreply())
        if reply.code == _CLOSING:
            self.is_usable = False
        self.require(reply, 200 <= reply.code < 600)
        return reply

    def require(self, reply: Reply, is_sound: bool) -> None:
        """Raises ProtocolError unless `is_sound`: the reply is none that can follow this command."""
        if not is_sound:
            self.abandon()
            raise ProtocolError(f"{self._endpoint} answered {reply}")

    def abandon(self) -> None:
        """Close at once; never raises."""
        self.is_usable = False
        with suppress(OSError):
            self.close()


class _Lines:
    """The file from which smtplib reads replies. It limits their lines, which smtplib would collect without end."""

    def __init__(self, endpoint: Endpoint, sock: socket.socket) -> None:
        self._endpoint = endpoint
        self._file = sock.makefile("rb")
        self._left = 0

    def begin_answer(self) -> None:
        self._left = _MAX_ANSWER_BYTES

    def readline(self, limit: int) -> bytes:
        line = self._file.readline(limit)
        self._left -= len(line)
        if self._left < 0:
            raise ProtocolError(f"{self._endpoint} sends more than {_MAX_ANSWER_BYTES} bytes in one answer")
        return line

    def close(self) -> None:
        self._file.close()


class _TlsSession(Session):
    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        plain = super()._get_socket(host, port, timeout)
        return tls_context(self._endpoint).wrap_socket(plain, server_hostname=self._endpoint.hostname)


def line(command: str) -> bytes:
    """A command as bytes. It is always one line, whatever text the command holds."""
    if "\r" in command or "\n" in command:
        raise ValueError("a command holds a line break")
    return f"{command}\r\n".encode()


def _greet(session: Session, endpoint: Endpoint) -> None:
    """Greet the server, and encrypt as the endpoint says, so that a password may be sent. Raises MailServerBusyError
    if the server cannot do that now."""
    _hello(session, endpoint)
    if endpoint.encryption != Encryption.STARTTLS:
        return
    if "starttls" not in session.esmtp_features:
        raise EncryptionUnavailableError(f"{endpoint} does not offer STARTTLS")
    try:
        session.starttls(context=tls_context(endpoint))
    except smtplib.SMTPResponseException as error:
        reply = _as_reply(error.smtp_code, error.smtp_error)
        # 454 is "not available due to temporary reason" (RFC 3207 section 4).
        kind = MailServerBusyError if reply.is_passing else EncryptionUnavailableError
        raise kind(f"{endpoint} refuses STARTTLS: {reply}") from error
    _hello(session, endpoint)


def _hello(session: Session, endpoint: Endpoint) -> None:
    """Send EHLO, or HELO if the server does not know EHLO (RFC 5321 section 3.2); after HELO it offers nothing, not
    even a login. Raises MailServerBusyError for a temporary refusal, and MailServerUnavailableError for a permanent
    one, which says nothing about a single message."""
    reply = _as_reply(*session.ehlo())
    if reply.is_final:
        reply = _as_reply(*session.helo())
    if reply.is_passing or reply.is_final:
        kind = MailServerUnavailableError if reply.is_final else MailServerBusyError
        raise kind(f"{endpoint} answers the greeting with {reply}")
    session.require(reply, reply.is_positive)


def _log_in(session: Session, endpoint: Endpoint, login: Login) -> str:
    """Log in and return the mechanism. Returns none at a server that offers no login: a relay may trust our network,
    and if it does not, it will refuse MAIL."""
    offered = session.esmtp_features.get("auth", "").upper().split()
    if not offered:
        return "none"
    exchanges = exchanges_for(login, endpoint, offered)
    if not exchanges:
        raise PermanentError(f"{endpoint} offers no login by password that we know: {' '.join(offered)}")
    return log_in(exchanges, lambda sasl: _attempt(session, endpoint, sasl), endpoint, login)


def _attempt(session: Session, endpoint: Endpoint, sasl: Sasl) -> str | None:
    """Make one exchange (RFC 4954 section 4). Returns the server's words if it refuses, else None."""
    with translated(endpoint, "logging in"):
        number, reasons = 0, ""
        command = f"AUTH {sasl.mechanism}"
        if sasl.client_first:
            command += f" {_base64(sasl.response(0))}"
            number = 1
        reply = session.command(command)
        while reply.code == _CHALLENGE and number <= len(sasl.responses):
            challenge = _challenge(reply)
            reasons += challenge.decode("utf-8", "replace") if sasl.client_first else ""
            reply = session.command(_base64(sasl.response(number, challenge)))
            number += 1
        return None if reply.is_positive else f"{reply.code} {reply.text} {storable(reasons)}".strip()


def _challenge(reply: Reply) -> bytes:
    """The decoded challenge; empty where it is no base64."""
    try:
        return b64decode(reply.text)
    except ValueError:
        return b""


def _base64(response: bytes | None) -> str:
    """A response as it is sent. None becomes the `*` that cancels the exchange."""
    return "*" if response is None else b64encode(response).decode()


def _as_reply(code: int, words: bytes | str) -> Reply:
    return Reply(code, " ".join(storable(_words(words)).split()))


def _words(words: bytes | str) -> str:
    return (readable(words) if isinstance(words, bytes) else words)[:_MAX_REPLY_LENGTH]
