"""One SMTP connection for any number of messages (RFC 5321, RFC 6409); the only module that imports the SMTP library.

A message goes in three steps, so that whoever sends it can note in between what must never be done twice: `offer`
(MAIL, RCPT and DATA, in one write where the server offers PIPELINING), `send_content`, and `end_data`, after which
the server has taken the message or not. SIZE, 8BITMIME, SMTPUTF8 and AUTH are used where they are offered.
"""

import re
import select
import smtplib
import socket
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

from tasks.errors import (
    EncryptionUnavailableError,
    MailServerBusyError,
    MailServerUnavailableError,
    MessageRefusedError,
    PermanentError,
    ProtocolError,
)
from tasks.mail import connection
from tasks.mail.charset import storable
from tasks.mail.connection import Endpoint, open_socket, tls_context
from tasks.mail.login import Login, login_refusal, sasl_for

# So many commands at once: their answers fit into any socket's buffer while nobody reads (RFC 2920 section 3.1).
_COMMANDS_PER_WRITE = 100

# The answer to a whole message takes servers longest, and giving up on it leaves open whether it was sent
# (RFC 5321 section 4.5.3.2.6): so many times the timeout of any other answer.
ANSWER_PATIENCE = 3

_LONGEST_WORDS = 300
_GOODBYE_SECONDS = 1
_START_DATA = 354
_CLOSING = 421


class Reply(NamedTuple):
    """What the server says (RFC 5321 section 4.2)."""

    code: int
    text: str

    @property
    def is_positive(self) -> bool:
        """Done."""
        return 200 <= self.code < 300

    @property
    def is_passing(self) -> bool:
        """Not now, but perhaps later."""
        return 400 <= self.code < 500

    @property
    def is_final(self) -> bool:
        """Never."""
        return 500 <= self.code < 600

    def __str__(self) -> str:
        return f"{self.code} {self.text}"


class Offer(NamedTuple):
    """What the server said to each recipient, and to DATA if it was asked that with a recipient to send to."""

    recipients: dict[str, Reply]
    data: Reply | None

    @property
    def is_open(self) -> bool:
        """Whether the server waits for the message."""
        return self.data is not None and self.data.code == _START_DATA


class SmtpConnection:
    """An authenticated connection. Every method raises an EmailError that says what happened to what."""

    def __init__(self, endpoint: Endpoint, login: Login) -> None:
        self._endpoint = endpoint
        self.login = login
        self.is_usable = True
        with _translated(endpoint, "connecting"):
            self._smtp = (_TlsSmtp if endpoint.encryption == "tls" else _Smtp)(endpoint)
        try:
            with _translated(endpoint, "connecting"):
                self._greet()
            with _translated(endpoint, "logging in"):
                self._log_in(login)
        except BaseException:
            self.abandon()
            raise

    @property
    def is_stale(self) -> bool:
        """Whether it is of no use any more: broken off, or the server said goodbye while nothing was sent."""
        if not self.is_usable or self.login.has_expired:
            return True
        poll = select.poll()
        poll.register(self._smtp.sock, select.POLLIN)
        return bool(poll.poll(0))

    @property
    def extensions(self) -> dict[str, str]:
        """What the server offers, in lower case, with parameters."""
        return self._smtp.esmtp_features

    def offer(self, sender: str, recipients: Sequence[str], size: int, *, utf8: bool = False) -> Offer:
        """Begin a message of `size` bytes; with `utf8` its addresses go beyond ASCII.

        Raises MessageRefusedError where the server never takes it from this sender or at this size, and
        MailServerBusyError where it does not now.
        """
        first = self._mail_command(sender, size, utf8=utf8)
        commands = [first, *(f"RCPT TO:<{address}>" for address in recipients), "DATA"]
        with _translated(self._endpoint, "sending"), self._abandoned_on_failure():
            replies = self._pipeline(commands) if "pipelining" in self.extensions else self._one_by_one(commands)
            said = dict(zip(recipients, replies[1:], strict=False))
            data = replies[-1] if len(replies) == len(commands) else None
            if not any(reply.is_positive for reply in said.values()):
                self._withdraw(data)
                data = None
        if not replies[0].is_positive:
            # It may mean this connection: so many messages, and no more.
            self.close()
            raise _refusal(replies[0], self._endpoint)
        if data is not None and data.code != _START_DATA:
            self._require(data, data.is_passing or data.is_final)
            self.reset()
        return Offer(said, data)

    def send_content(self, raw: bytes) -> None:
        """The message but for the end that makes it one; until then the server must forget it (section 4.1.1.4).

        Lines of `raw` end in CRLF, the last one too.
        """
        with _translated(self._endpoint, "sending"), self._abandoned_on_failure():
            self._smtp.send(re.sub(rb"(?m)^\.", b"..", raw))

    def require_open(self) -> None:
        """Raises MailServerUnavailableError where the server is gone already, so that its absence leaves no doubt."""
        if self.is_stale:
            self.abandon()
            raise MailServerUnavailableError(f"sending, {self._endpoint}: it closed the connection")

    def end_data(self) -> Reply:
        """Complete the message, and the server's answer. An error leaves open whether the message was taken."""
        with _translated(self._endpoint, "waiting for the answer to the message"), self._abandoned_on_failure():
            self._smtp.sock.settimeout(self._endpoint.timeout * ANSWER_PATIENCE)
            self._smtp.send(b".\r\n")
            reply = self._reply()
            self._require(reply, reply.is_positive or reply.is_passing or reply.is_final)
            self._smtp.sock.settimeout(self._endpoint.timeout)
            return reply

    def reset(self) -> None:
        """Forget a message that was begun."""
        if self.is_usable:
            with _translated(self._endpoint, "sending"), self._abandoned_on_failure():
                self._one_by_one(["RSET"])

    def close(self) -> None:
        """Say goodbye if the server still listens; never raises."""
        if self.is_usable:
            with suppress(OSError, ValueError):
                self._smtp.sock.settimeout(_GOODBYE_SECONDS)
                self._smtp.docmd("QUIT")
        self.abandon()

    def abandon(self) -> None:
        """Close without a goodbye, for when the server may be in the middle of a message; never raises."""
        self.is_usable = False
        with suppress(OSError):
            self._smtp.close()

    def _greet(self) -> None:
        self._hello()
        if self._endpoint.encryption != "starttls":
            return
        if "starttls" not in self.extensions:
            raise EncryptionUnavailableError(f"{self._endpoint} does not offer STARTTLS")
        try:
            self._smtp.starttls(context=tls_context(self._endpoint))
        except smtplib.SMTPResponseException as error:
            raise EncryptionUnavailableError(f"{self._endpoint} refuses STARTTLS") from error
        self._hello()

    def _hello(self) -> None:
        self._smtp.ehlo()
        if not self._smtp.does_esmtp:
            self._smtp.helo()

    def _log_in(self, login: Login) -> None:
        offered = self.extensions.get("auth", "").upper().split()
        if not offered:
            return  # a relay that trusts our network; one that does not will say so at MAIL
        sasl = sasl_for(login, self._endpoint, offered)
        if sasl:
            reply = self._command(f"AUTH {sasl.mechanism} {_base64(sasl.initial_response)}")
            reasons = reply.text if reply.code == 334 else ""
            if reply.code == 334:
                reply = self._command(_base64(sasl.on_failure))
        elif "LOGIN" in offered:
            reasons = ""
            for words in ("AUTH LOGIN", _base64(login.username.encode()), _base64(login.secret.encode())):
                reply = self._command(words)
                if reply.code != 334:
                    break
        else:
            raise PermanentError(f"{self._endpoint} offers no login by password that we know: {' '.join(offered)}")
        if reply.is_passing:
            raise MailServerBusyError(f"{self._endpoint}: {reply}")
        if not reply.is_positive:
            raise login_refusal(f"{reply} {reasons}".strip(), self._endpoint, login)

    def _mail_command(self, sender: str, size: int, *, utf8: bool) -> str:
        limit = self.extensions.get("size", "")
        if limit.isdigit() and 0 < int(limit) < size:
            raise MessageRefusedError(f"it has {size:,} bytes, and {self._endpoint} takes {int(limit):,} at most")
        if utf8 and "smtputf8" not in self.extensions:
            raise MessageRefusedError(f"{self._endpoint} takes no addresses beyond ASCII (SMTPUTF8)")
        parameters = [f" SIZE={size}"] if "size" in self.extensions else []
        if utf8:
            parameters += [" BODY=8BITMIME"] * ("8bitmime" in self.extensions) + [" SMTPUTF8"]
        return f"MAIL FROM:<{sender}>{''.join(parameters)}"

    def _pipeline(self, commands: Sequence[str]) -> list[Reply]:
        """RFC 2920. Where MAIL is refused all else is too, so it does not matter how much went out with it."""
        replies: list[Reply] = []
        for start in range(0, len(commands), _COMMANDS_PER_WRITE):
            written = commands[start : start + _COMMANDS_PER_WRITE]
            self._smtp.send(b"".join(_line(command) for command in written))
            replies += [self._reply() for _ in written]
        return replies

    def _one_by_one(self, commands: Sequence[str]) -> list[Reply]:
        """Ends where MAIL is refused, and leaves out DATA where every recipient is."""
        replies: list[Reply] = []
        for command in commands:
            if command == "DATA" and not any(reply.is_positive for reply in replies[1:]):
                break
            replies.append(self._command(command))
            if not replies[0].is_positive:
                break
        return replies

    def _withdraw(self, data: Reply | None) -> None:
        """Nobody to send to: a server that waits for the message all the same gets an empty one for nobody."""
        if data is not None and data.code == _START_DATA:
            self._command(".")
        if self.is_usable:
            self._command("RSET")

    def _command(self, command: str) -> Reply:
        self._smtp.send(_line(command))
        return self._reply()

    def _reply(self) -> Reply:
        code, words = self._smtp.getreply()
        if code == _CLOSING:
            self.is_usable = False
        reply = Reply(code, " ".join(storable(_words(words)).split()))
        self._require(reply, 200 <= code < 600)
        return reply

    def _require(self, reply: Reply, is_sound: bool) -> None:
        """Raises ProtocolError: whatever was meant, it is not what can be answered here."""
        if not is_sound:
            self.abandon()
            raise ProtocolError(f"{self._endpoint} answered {reply}")

    @contextmanager
    def _abandoned_on_failure(self) -> Iterator[None]:
        # Where a step broke off, the next answer could be the last one's.
        try:
            yield
        except BaseException:
            self.abandon()
            raise


class _Smtp(smtplib.SMTP):
    """Takes its socket from `tasks.mail.connection`, and asks no name server for its own name."""

    sock: socket.socket  # None only before it connects

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        super().__init__(endpoint.hostname, endpoint.port, local_hostname="localhost", timeout=endpoint.timeout)
        address = self.sock.getsockname()[0]
        self.local_hostname = f"[IPv6:{address}]" if ":" in address else f"[{address}]"

    def _get_socket(self, _host: str, _port: int, _timeout: float) -> socket.socket:
        plain = open_socket(self._endpoint)
        # The end of a message is a write of its own, which must not wait for the acknowledgement of the one before.
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return plain


class _TlsSmtp(_Smtp):
    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        plain = super()._get_socket(host, port, timeout)
        return tls_context(self._endpoint).wrap_socket(plain, server_hostname=self._endpoint.hostname)


@contextmanager
def _translated(endpoint: Endpoint, doing: str) -> Iterator[None]:
    """Whatever the library or the network raises, as one of our errors."""
    with connection.translated(endpoint, doing):
        try:
            yield
        except smtplib.SMTPConnectError as error:
            reply = Reply(error.smtp_code, _words(error.smtp_error))
            kind = MessageRefusedError if reply.is_final else MailServerBusyError
            raise kind(f"{endpoint} greets with {reply}") from error
        except smtplib.SMTPResponseException as error:
            raise MailServerUnavailableError(f"{doing}, {endpoint}: {_words(error.smtp_error)}") from error


def _refusal(reply: Reply, endpoint: Endpoint) -> Exception:
    return (MessageRefusedError if reply.is_final else MailServerBusyError)(f"{endpoint}: {reply}")


def _line(command: str) -> bytes:
    if "\r" in command or "\n" in command:
        raise ValueError("a command holds a line break")
    return f"{command}\r\n".encode()


def _base64(data: bytes) -> str:
    return b64encode(data).decode()


def _words(said: bytes | str) -> str:
    return (said.decode("utf-8", "replace") if isinstance(said, bytes) else said)[:_LONGEST_WORDS]
