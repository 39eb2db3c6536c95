"""A server whose answer never ends is left, before it has filled the memory of the worker."""

import socket
from collections.abc import Callable
from ipaddress import ip_network

import pytest

from tasks.errors import ProtocolError
from tasks.mail.connection import Endpoint
from tasks.mail.imap.session import ImapSession
from tasks.mail.login import Login
from tasks.mail.pop3.session import Pop3Session
from tasks.mail.session import open_session
from tasks.mail.smtp.session import SmtpSession
from tests.support.tcp_server import TcpServer

# More than any of the limits, and not for ever, should a limit not hold.
MAX_BYTES = 64 * 1024 * 1024
LOGIN = Login("ada", "sample")


class Endless(TcpServer):
    """Greets, waits for a command, and answers it with the same line again and again."""

    def __init__(self, greeting: bytes, first: bytes, line: bytes) -> None:
        super().__init__()
        self.greeting, self.first, self.line = greeting, first, line
        self.sent = 0

    def serve(self, connection: socket.socket, number: int) -> None:
        with connection:
            connection.sendall(self.greeting)
            connection.recv(1000)
            lines = self.line * (64 * 1024 // len(self.line))
            try:
                connection.sendall(self.first)
                while self.sent < MAX_BYTES:
                    connection.sendall(lines)
                    self.sent += len(lines)
            except OSError:
                pass  # it has left


def imap(endpoint: Endpoint) -> object:
    return open_session(ImapSession, endpoint, LOGIN, max_literal=1024)


def pop3(endpoint: Endpoint) -> object:
    return open_session(Pop3Session, endpoint, LOGIN)


def smtp(endpoint: Endpoint) -> object:
    return open_session(SmtpSession, endpoint, LOGIN)


@pytest.mark.parametrize(
    ("connect", "server"),
    [
        (imap, Endless(b"* OK ready\r\n", b"", b'* LIST () "/" endless\r\n')),
        (pop3, Endless(b"+OK ready\r\n", b"+OK\r\n", b"CAPABILITY\r\n")),
        (smtp, Endless(b"220 ready\r\n", b"", b"250-AGAIN\r\n")),
    ],
    ids=["imap", "pop3", "smtp"],
)
def test_it_is_left(connect: Callable[[Endpoint], object], server: Endless) -> None:
    endpoint = Endpoint(server.host, server.port, "none", 10, True, (ip_network("127.0.0.0/8"),))
    with server, pytest.raises(ProtocolError, match="bytes"):
        connect(endpoint)
    assert server.sent < MAX_BYTES
