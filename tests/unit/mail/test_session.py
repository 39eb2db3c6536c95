"""What the sessions of IMAP, POP3 and SMTP share."""

import imaplib
import poplib
import signal
import smtplib
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_network
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tasks.errors import (
    CertificateInvalidError,
    EmailError,
    MailServerBusyError,
    MailServerUnavailableError,
    ProtocolError,
    SoftTimeLimitError,
)
from tasks.mail.connection import Endpoint
from tasks.mail.imap.session import ImapSession
from tasks.mail.kinds import Encryption
from tasks.mail.login import Login
from tasks.mail.pop3.session import Pop3Session
from tasks.mail.session import CommandRefusedError, WireSession, open_session
from tasks.mail.smtp.session import SmtpSession
from tests.support.certificates import Authority
from tests.support.tcp_server import TcpServer

LOGIN = Login("ada", "sample")
LOOPBACK = (ip_network("127.0.0.0/8"),)
KINDS = [ImapSession, Pop3Session, SmtpSession]
HANDSHAKE = ssl.SSLError(1, "failed")
HANDSHAKE.reason = "HANDSHAKE_FAILURE"
BAD_CERTIFICATE = ssl.SSLCertVerificationError(1, "failed")
BAD_CERTIFICATE.verify_message = "certificate has expired"  # type: ignore[attr-defined]


class Conversation(NamedTuple):
    """What a server of one protocol says."""

    kind: type[WireSession]
    options: dict[str, Any]
    greeting: bytes
    busy: bytes  # a greeting
    gone: bytes  # a greeting
    before_tls: bytes  # the answer to the command that begins TLS, with lines that somebody put around the answer
    answers: dict[bytes, bytes]  # by the first words of a command, after TLS began


IMAP = Conversation(
    ImapSession,
    {"max_literal": 1000},
    b"* OK [CAPABILITY IMAP4rev1 STARTTLS] ready\r\n",
    b"* BYE too many connections\r\n",
    b"* BYE going down\r\n",
    b"* CAPABILITY IMAP4rev1 INJECTED\r\n%s OK begin\r\n* CAPABILITY IMAP4rev1 INJECTED\r\n",
    {b"CAPABILITY": b"* CAPABILITY IMAP4rev1\r\n%s OK done\r\n", b"LOGIN": b"%s OK in\r\n"},
)
POP3 = Conversation(
    Pop3Session,
    {},
    b"+OK ready\r\n",
    b"-ERR too many connections\r\n",
    b"-ERR going down\r\n",
    b"+OK begin\r\n+OK\r\nINJECTED\r\n.\r\n",
    {b"CAPA": b"+OK\r\nUSER\r\n.\r\n", b"USER": b"+OK\r\n", b"PASS": b"+OK\r\n"},
)
SMTP = Conversation(
    SmtpSession,
    {},
    b"220 ready\r\n",
    b"421 too many connections\r\n",
    b"554 going down\r\n",
    b"220 begin\r\n250-here\r\n250 INJECTED\r\n",
    {b"ehlo": b"250-here\r\n250 8BITMIME\r\n"},
)
CONVERSATIONS = pytest.mark.parametrize("conversation", [IMAP, POP3, SMTP], ids=["imap", "pop3", "smtp"])


class Server(TcpServer):
    """Holds a conversation, of which everything but TLS is in the clear."""

    def __init__(self, conversation: Conversation, greeting: bytes, tls: ssl.SSLContext | None = None) -> None:
        super().__init__()
        self.conversation, self.greeting, self.tls = conversation, greeting, tls
        self.ended = threading.Event()

    def serve(self, connection: socket.socket, number: int) -> None:
        with closing(connection):
            connection.sendall(self.greeting)
            for tag, command in _commands(connection):
                if command in (b"STARTTLS", b"STLS") and self.tls:
                    connection.sendall(_with_tag(self.conversation.before_tls, tag))
                    break
                connection.sendall(self._before(command, tag))
            else:
                self.ended.set()
                return
            with self.tls.wrap_socket(connection, server_side=True) as encrypted:
                for tag, command in _commands(encrypted):
                    answer = self.conversation.answers.get(command)
                    if answer is None:
                        return
                    encrypted.sendall(_with_tag(answer, tag))

    def _before(self, command: bytes, tag: bytes) -> bytes:
        if command == b"CAPABILITY":
            return b"* CAPABILITY IMAP4rev1 STARTTLS\r\n" + tag + b" OK done\r\n"
        return b"250-here\r\n250 STARTTLS\r\n"


def _commands(connection: socket.socket) -> Iterator[tuple[bytes, bytes]]:
    """The tag (IMAP alone has one) and the name of each command."""
    with connection.makefile("rb") as lines:
        for line in lines:
            words = line.split()
            has_tag = len(words) > 1 and words[1].isupper() and words[0][-1:].isdigit()
            yield (words[0], words[1]) if has_tag else (b"", words[0])


def _with_tag(answer: bytes, tag: bytes) -> bytes:
    return answer.replace(b"%s", tag)


def _endpoint(server: TcpServer, encryption: Encryption) -> Endpoint:
    return Endpoint(server.host, server.port, encryption, 10, False, LOOPBACK)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("error", "becomes", "words"),
    [
        (BAD_CERTIFICATE, CertificateInvalidError, "certificate has expired"),
        (HANDSHAKE, MailServerUnavailableError, "TLS failed: HANDSHAKE_FAILURE"),
        (TimeoutError(), MailServerUnavailableError, "no answer in time"),
        (ConnectionResetError(104, "reset by peer"), MailServerUnavailableError, "[Errno 104] reset by peer"),
        (OSError(), MailServerUnavailableError, "OSError"),
        (ValueError("no number"), ProtocolError, "no number"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_errors_of_the_network_mean_the_same_in_every_protocol(
    kind: type[WireSession], error: Exception, becomes: type[EmailError], words: str
) -> None:
    session = _unconnected(kind)

    with pytest.raises(becomes) as raised, session.translating_errors("listing"):
        raise error

    assert type(raised.value) is becomes
    assert raised.value.detail.startswith(f"listing, mail.example.org:1: {words}")
    assert raised.value.__cause__ is error


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [SoftTimeLimitError(), CommandRefusedError("no"), KeyError("a defect")])
def test_other_errors_stay_what_they_are(kind: type[WireSession], error: Exception) -> None:
    with pytest.raises(type(error)) as raised, _unconnected(kind).translating_errors("listing"):
        raise error

    assert raised.value is error


@pytest.mark.parametrize(
    ("kind", "error", "becomes"),
    [
        (ImapSession, imaplib.IMAP4.error("no"), CommandRefusedError),
        (ImapSession, imaplib.IMAP4.abort("socket error: EOF"), MailServerUnavailableError),
        (ImapSession, imaplib.IMAP4.abort("unexpected answer"), ProtocolError),
        (Pop3Session, poplib.error_proto(b"-ERR no"), CommandRefusedError),
        (Pop3Session, poplib.error_proto(b"-ERR [SYS/TEMP] later"), MailServerBusyError),
        (SmtpSession, smtplib.SMTPServerDisconnected("closed"), MailServerUnavailableError),
        (SmtpSession, smtplib.SMTPResponseException(500, b"Line too long."), MailServerUnavailableError),
    ],
)
def test_errors_of_each_library(kind: type[WireSession], error: Exception, becomes: type[EmailError]) -> None:
    with pytest.raises(EmailError) as raised, _unconnected(kind).translating_errors("listing"):
        raise error

    assert type(raised.value) is becomes


@CONVERSATIONS
@pytest.mark.parametrize("is_busy", [True, False], ids=["busy", "gone"])
def test_a_refusal_in_the_greeting_refuses_no_command(conversation: Conversation, is_busy: bool) -> None:
    greeting = conversation.busy if is_busy else conversation.gone
    with Server(conversation, greeting) as server:
        with pytest.raises(EmailError) as raised:
            open_session(conversation.kind, _endpoint(server, Encryption.NONE), LOGIN, **conversation.options)
        # The connection ends at once, also while something keeps the error.
        assert server.ended.wait(4)

    assert type(raised.value) is (MailServerBusyError if is_busy else MailServerUnavailableError)
    assert raised.value.detail.startswith(f"connecting, {server.host}:{server.port}: ")


@CONVERSATIONS
def test_a_goodbye_that_takes_the_rest_of_the_time_closes_the_connection(
    conversation: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late() -> None:
        raise SoftTimeLimitError

    with Server(conversation, conversation.greeting) as server:
        session = conversation.kind(_endpoint(server, Encryption.NONE), **conversation.options)
        monkeypatch.setattr(session, "ask_to_end", late)
        with pytest.raises(SoftTimeLimitError):
            session.say_goodbye()
        assert server.ended.wait(4)


@pytest.mark.parametrize(("conversation", "seconds"), [(IMAP, 5), (POP3, 5), (SMTP, 1)], ids=["imap", "pop3", "smtp"])
def test_a_goodbye_does_not_wait_long_for_its_answer(
    conversation: Conversation, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = []
    with Server(conversation, conversation.greeting) as server:
        session = conversation.kind(_endpoint(server, Encryption.NONE), **conversation.options)
        monkeypatch.setattr(session, "ask_to_end", lambda: waits.append(session.sock.gettimeout()))
        session.say_goodbye()
    assert waits == [seconds]


@CONVERSATIONS
def test_lines_that_somebody_adds_before_the_encryption_are_not_believed(
    conversation: Conversation, tmp_path: Path
) -> None:
    files = Authority(tmp_path).issue("server", "127.0.0.1")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.certificate, files.key)
    with Server(conversation, conversation.greeting, context) as server:
        endpoint = _endpoint(server, Encryption.STARTTLS)

        session = open_session(conversation.kind, endpoint, LOGIN, **conversation.options)

        session.abandon()
    offered = {**vars(session).get("esmtp_features", {}), **vars(session).get("offered", {})}
    assert "INJECTED" not in " ".join([*offered, *vars(session).get("capabilities", ())]).upper()


class LateHandshake(TcpServer):
    """The soft time limit passes while the client waits for the answer to the first bytes of its handshake."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = threading.Event()

    def serve(self, connection: socket.socket, number: int) -> None:
        with closing(connection):
            connection.recv(1)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)
            while connection.recv(4096):
                pass
            self.ended.set()


@CONVERSATIONS
def test_a_handshake_that_takes_the_rest_of_the_time_closes_the_connection(conversation: Conversation) -> None:
    def late(*_: object) -> None:
        raise SoftTimeLimitError

    before = signal.signal(signal.SIGALRM, late)
    try:
        with LateHandshake() as server:
            with pytest.raises(SoftTimeLimitError) as raised:
                open_session(conversation.kind, _endpoint(server, Encryption.TLS), LOGIN, **conversation.options)
            # Also while something keeps the error.
            assert server.ended.wait(4), raised
    finally:
        signal.signal(signal.SIGALRM, before)


def _unconnected(kind: type[WireSession]) -> Any:
    session = kind.__new__(kind)
    session.endpoint = Endpoint("mail.example.org", 1, Encryption.NONE, 10, True, ())
    return session
