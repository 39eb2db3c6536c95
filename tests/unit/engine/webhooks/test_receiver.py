"""Receivers that misbehave: on real sockets of this machine."""

import socket
import threading
from collections.abc import Callable
from contextlib import suppress

import pytest

from tasks.engine.webhooks.receiver import Failure, Receiver
from tasks.engine.webhooks.request import Request
from tests.support.tcp_server import TcpServer

REQUEST = Request({"webhook-id": "1"}, b"{}")
TLS_HANDSHAKE = b"\x16\x03"
ACCEPTED = b"HTTP/1.1 204 No Content\r\n\r\n"


class Odd(TcpServer):
    """Answers each request of a connection with what `answer` gives for it, or sends bytes until it is hung up on."""

    def __init__(self, answer: Callable[[int], bytes | None]) -> None:
        super().__init__()
        self.answer = answer
        self.requests = 0
        self.was_hung_up_on = threading.Event()

    def serve(self, connection: socket.socket, number: int) -> None:
        with connection, suppress(OSError):
            while self._took_request(connection):
                self.requests += 1
                answer = self.answer(self.requests)
                if answer is None:
                    self._drip(connection)
                    return
                connection.sendall(answer)
                if b"Connection: close" in answer:
                    return

    def _took_request(self, connection: socket.socket) -> bool:
        taken = b""
        while not taken.endswith(REQUEST.body) and not taken.startswith(TLS_HANDSHAKE):
            some = connection.recv(65_536)
            if not some:
                return False
            taken += some
        return True

    def _drip(self, connection: socket.socket) -> None:
        try:
            connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
            while not self._stopped.wait(0.1):
                connection.sendall(b"x")
        except OSError:
            self.was_hung_up_on.set()


@pytest.fixture
def settings(environment: Callable[..., None]) -> Callable[..., None]:
    environment(WEBHOOK_ALLOW_HTTP="true", WEBHOOK_TIMEOUT="60")
    return environment


def post(server: Odd, times: int = 1) -> list[Failure | None]:
    with Receiver(f"http://127.0.0.1:{server.port}/hook") as receiver:
        return [receiver.post(REQUEST) for _ in range(times)]


def test_an_answer_that_comes_byte_by_byte_ends_with_the_time_out(settings: Callable[..., None]) -> None:
    settings(WEBHOOK_TIMEOUT="1")
    with Odd(lambda _: None) as server:
        (failure,) = post(server)
        assert failure is not None
        assert failure.is_away
        assert "no whole answer within 1 seconds" in failure.words
        assert server.was_hung_up_on.wait(60)


def test_a_handshake_that_never_ends_does_too(settings: Callable[..., None]) -> None:
    settings(WEBHOOK_TIMEOUT="1")
    with Odd(lambda _: b"\x16\x03\x03\x40\x00") as server:
        with Receiver(f"https://127.0.0.1:{server.port}/") as receiver:
            failure = receiver.post(REQUEST)
        assert failure is not None
        assert failure.is_away


def test_a_connection_is_used_again_and_made_anew_where_the_receiver_closed_it(settings: Callable[..., None]) -> None:
    closing = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    with Odd(lambda number: closing if number == 2 else ACCEPTED) as server:
        assert post(server, 3) == [None] * 3
        assert (server.connections, server.requests) == (2, 3)


@pytest.mark.parametrize(
    "answer",
    [
        b"no HTTP at all\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000,
    ],
    ids=["no HTTP", "too many headers", "a long header"],
)
def test_what_is_no_answer_is_none(settings: Callable[..., None], answer: bytes) -> None:
    with Odd(lambda _: answer) as server:
        (failure,) = post(server)
        assert failure is not None
        assert failure.is_away


def test_of_a_long_answer_only_the_beginning_is_read(settings: Callable[..., None]) -> None:
    endless = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n" + b"x" * 100_000
    with Odd(lambda _: endless) as server:
        assert post(server, 2) == [None, None]
        assert server.connections == 2
