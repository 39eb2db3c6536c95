"""An SMTP connection up to the login; the only module that imports the SMTP library.

This module adds to smtplib: passwords and tokens may have any characters; after an answer that cannot be understood
no more commands are sent; and what all sessions share (`tasks.mail.session`).
"""

import smtplib
import socket
from base64 import b64decode, b64encode
from typing import NamedTuple

from tasks.errors import (
    EncryptionUnavailableError,
    MailServerBusyError,
    MailServerUnavailableError,
    PermanentError,
    ProtocolError,
)
from tasks.mail.authenticate import log_in
from tasks.mail.connection import Endpoint, tls_context
from tasks.mail.login import Login, Sasl, exchanges_for
from tasks.mail.parse.charset import storable
from tasks.mail.refusal import readable
from tasks.mail.session import AnswerLimit, Cause, WireSession
from tasks.secrecy.secrets import said

_MAX_SHOWN_LENGTH = 300
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
        return f"{self.code} {said(self.text, _MAX_SHOWN_LENGTH)}"


class SmtpSession(WireSession, smtplib.SMTP):
    """An smtplib session that asks no name server for the host's own name."""

    # A task that sends may wait for the goodbye on another connection before it notes that its message was accepted.
    goodbye_seconds = 1

    def __init__(self, endpoint: Endpoint) -> None:
        self.is_usable = True
        super().__init__(endpoint, local_hostname="localhost")
        address = self.sock.getsockname()[0]
        self.local_hostname = f"[IPv6:{address}]" if ":" in address else f"[{address}]"

    def _get_socket(self, _host: str, _port: int, timeout: float) -> socket.socket:
        return self._create_socket(timeout)

    @staticmethod
    def cause_of(error: Exception) -> Cause | None:
        match error:
            case smtplib.SMTPConnectError():
                reply = _as_reply(error.smtp_code, error.smtp_error)
                kind = MailServerUnavailableError if reply.is_final else MailServerBusyError
                return Cause(kind, f"the server greets with {reply}")
            case smtplib.SMTPResponseException():
                return Cause(MailServerUnavailableError, _words(error.smtp_error))
        return None

    def getreply(self) -> tuple[int, bytes]:
        """As smtplib's, but with a limit to the length of an answer."""
        if self.file is None:
            self.file = _Lines(self.sock)
        self.file.limit.begin_answer()
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
            raise ProtocolError(f"{self.endpoint} answered {reply}")

    def abandon(self) -> None:
        self.is_usable = False
        super().abandon()

    def ask_to_end(self) -> None:
        self.docmd("QUIT")

    def close_socket(self) -> None:
        self.close()

    def introduce(self) -> None:
        self._hello()
        super().introduce()

    def begin_tls(self) -> None:
        """Begin TLS (STARTTLS, RFC 3207). Raises MailServerBusyError if the server cannot do that now."""
        if "starttls" not in self.esmtp_features:
            raise EncryptionUnavailableError(f"{self.endpoint} does not offer STARTTLS")
        try:
            self.starttls(context=tls_context(self.endpoint))
        except smtplib.SMTPResponseException as error:
            reply = _as_reply(error.smtp_code, error.smtp_error)
            # 454 is "not available due to temporary reason" (RFC 3207 section 4).
            kind = MailServerBusyError if reply.is_passing else EncryptionUnavailableError
            raise kind(f"{self.endpoint} refuses STARTTLS: {reply}") from error
        self._hello()

    def _hello(self) -> None:
        """Send EHLO, or HELO if the server does not know EHLO (RFC 5321 section 3.2). After HELO the server offers no
        extension, not even a login.

        Raises MailServerBusyError for a temporary refusal, and MailServerUnavailableError for a permanent refusal,
        which says nothing about a single message.
        """
        reply = _as_reply(*self.ehlo())
        if reply.is_final:
            reply = _as_reply(*self.helo())
        if reply.is_passing or reply.is_final:
            kind = MailServerUnavailableError if reply.is_final else MailServerBusyError
            raise kind(f"{self.endpoint} answers the greeting with {reply}")
        self.require(reply, reply.is_positive)

    def log_in(self, login: Login) -> str:
        """Log in and return the mechanism: "none" at a server that offers no login.

        Such a relay may trust our network; if it does not, it will refuse MAIL.
        """
        offered = self.esmtp_features.get("auth", "").upper().split()
        if not offered:
            return "none"
        exchanges = exchanges_for(login, self.endpoint, offered)
        if not exchanges:
            raise PermanentError(f"{self.endpoint} offers no login by password that we know: {' '.join(offered)}")
        return log_in(exchanges, self._attempt, self.endpoint, login)

    def _attempt(self, sasl: Sasl) -> str | None:
        """Make one exchange (RFC 4954 section 4). Returns the server's words if it refuses, else None."""
        with self.translating_errors("logging in"):
            number, reasons = 0, ""
            command = f"AUTH {sasl.mechanism}"
            if sasl.client_first:
                command += f" {_base64(sasl.response(0))}"
                number = 1
            reply = self.command(command)
            while reply.code == _CHALLENGE and number <= len(sasl.responses):
                challenge = _challenge(reply)
                reasons += challenge.decode("utf-8", "replace") if sasl.client_first else ""
                reply = self.command(_base64(sasl.response(number, challenge)))
                number += 1
            return None if reply.is_positive else f"{reply.code} {reply.text} {storable(reasons)}".strip()


class _Lines:
    """The file from which smtplib reads replies. It limits their lines, which smtplib would collect without end."""

    def __init__(self, sock: socket.socket) -> None:
        self._file = sock.makefile("rb")
        self.limit = AnswerLimit(_MAX_ANSWER_BYTES)

    def readline(self, limit: int) -> bytes:
        line = self._file.readline(limit)
        self.limit.count(len(line))
        return line

    def close(self) -> None:
        self._file.close()


def line(command: str) -> bytes:
    """A command as bytes. It is always one line, whatever text the command holds."""
    if "\r" in command or "\n" in command:
        raise ValueError("a command holds a line break")
    return f"{command}\r\n".encode()


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
