"""What the sessions of IMAP, POP3 and SMTP share: TLS, greeting, login, errors, limits, and how a connection ends.

Each session is the class of its protocol in the standard library with `WireSession` mixed in. It adds the commands of
its own protocol, and what the library's errors mean.
"""

import select
import socket
import ssl
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, ClassVar, NamedTuple, TypeVar

from tasks.errors import (
    CertificateInvalidError,
    EmailError,
    MailServerBusyError,
    MailServerUnavailableError,
    ProtocolError,
)
from tasks.mail.authenticate import learn_login
from tasks.mail.connection import Endpoint, open_socket
from tasks.mail.kinds import Encryption
from tasks.mail.login import Login
from tasks.mail.refusal import means_busy
from tasks.secrecy.secrets import said

MAX_WORDS_LENGTH = 200


class CommandRefusedError(ProtocolError):
    """The mail server refused what was asked for."""


class Cause(NamedTuple):
    """Which EmailError an error of a library or of the network becomes, and what the error says (perhaps nothing)."""

    kind: type[EmailError]
    words: str


class AnswerLimit:
    """Bounds the bytes of one answer, which the libraries would collect until the worker's memory is full."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = self._left = max_bytes

    def begin_answer(self) -> None:
        """Count from zero again."""
        self._left = self._max_bytes

    def count(self, size: int) -> None:
        """Raises ValueError, which becomes a ProtocolError, if the answer has more bytes than it may have."""
        self._left -= size
        if self._left < 0:
            raise ValueError(f"more than {self._max_bytes} bytes in one answer")


class WireSession(ABC):
    """A connection to a mail server. To be mixed in before a class of imaplib, poplib or smtplib."""

    # How long to wait for the answer to a goodbye, which nobody needs.
    goodbye_seconds: ClassVar[int] = 5

    sock: Any = None  # of the library: a socket, or None before the connection is made and, in some, after its end

    def __init__(self, endpoint: Endpoint, **options: Any) -> None:
        """Connect and read the greeting."""
        self.endpoint = endpoint
        self.mechanism = ""  # with which this session logged in
        try:
            super().__init__(endpoint.hostname, endpoint.port, timeout=endpoint.timeout, **options)  # type: ignore[call-arg]
        except BaseException:
            self.abandon()
            raise

    def _create_socket(self, *_: object) -> socket.socket:
        """The socket for imaplib and poplib."""
        return open_socket(self.endpoint)

    @staticmethod
    @abstractmethod
    def cause_of(error: Exception) -> Cause | None:
        """What an error of the library means; None for any other error."""

    @abstractmethod
    def begin_tls(self) -> None:
        """Begin TLS on a connection without it. Raises EncryptionUnavailableError if the server refuses."""

    @abstractmethod
    def log_in(self, login: Login) -> str:
        """Log in and return the mechanism."""

    @abstractmethod
    def ask_to_end(self) -> None:
        """Send the command that ends a session, and read its answer."""

    @abstractmethod
    def close_socket(self) -> None:
        """Close the socket and the file that is read from it."""

    def introduce(self) -> None:
        """Do what comes between the greeting and the login: TLS, if it begins with a command."""
        if self.endpoint.encryption == Encryption.STARTTLS:
            self.begin_tls()

    def translating_errors(self, doing: str) -> AbstractContextManager[None]:
        """Translate errors of the library and of the network into EmailErrors that tell where and at what."""
        return _translating_errors(self.endpoint, doing, self.cause_of)

    @property
    def has_input(self) -> bool:
        """Whether the server closed the connection, or sent something without being asked."""
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return bool(poll.poll(0))

    def say_goodbye(self) -> None:
        """End the session by its command, and close; raises no error of the server."""
        try:
            if self.sock is not None:
                with suppress(EmailError), self.translating_errors("saying goodbye"):
                    self.sock.settimeout(min(self.endpoint.timeout, self.goodbye_seconds))
                    self.ask_to_end()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close at once and without a goodbye; never raises."""
        if self.sock is None:
            return
        with suppress(OSError):
            # Shut the socket down first, because closing the buffer would wait for a thread that reads from it. The
            # TLS socket's own method is not used, as it would remove the TLS layer while that thread uses it.
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)
        with suppress(OSError):
            self.close_socket()


S = TypeVar("S", bound=WireSession)


def open_session(kind: type[S], endpoint: Endpoint, login: Login, **options: Any) -> S:
    """Connect, encrypt as the endpoint says, and log in. Raises an EmailError that says what happened.

    `options` are for the constructor of the session.
    """
    with _translating_errors(endpoint, "connecting", lambda error: _cause_at_greeting(kind.cause_of(error))):
        session = kind(endpoint, **options)
    try:
        with session.translating_errors("connecting"):
            session.introduce()
        learn_login(login, endpoint)
        session.mechanism = session.log_in(login)
    except BaseException:
        session.abandon()
        raise
    return session


def _cause_at_greeting(cause: Cause | None) -> Cause | None:
    """A greeting that is a refusal refuses no command: the server is busy or not available."""
    if cause is None or not issubclass(cause.kind, CommandRefusedError):
        return cause
    return Cause(MailServerBusyError if means_busy(cause.words) else MailServerUnavailableError, cause.words)


@contextmanager
def _translating_errors(
    endpoint: Endpoint, doing: str, cause_of: Callable[[Exception], Cause | None]
) -> Iterator[None]:
    try:
        yield
    except EmailError:
        raise
    except Exception as error:
        cause = cause_of(error) or _cause_in_network(error)
        if cause is None:
            raise
        words = said(cause.words, MAX_WORDS_LENGTH)
        raise cause.kind(f"{doing}, {endpoint}{': ' if words else ''}{words}") from error


def _cause_in_network(error: Exception) -> Cause | None:
    match error:
        case ssl.SSLCertVerificationError():
            return Cause(CertificateInvalidError, error.verify_message)
        case ssl.SSLError():
            return Cause(MailServerUnavailableError, f"TLS failed: {error.reason or error}")
        case TimeoutError():
            return Cause(MailServerUnavailableError, "no answer in time")
        case OSError():
            return Cause(MailServerUnavailableError, str(error) or type(error).__name__)
        case ValueError():
            return Cause(ProtocolError, str(error))
    return None
