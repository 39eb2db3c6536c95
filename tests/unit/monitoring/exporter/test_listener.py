"""Connections that bring no request hold neither the exporter nor its log up; IPv4 and IPv6 are listened on."""

import errno
import http.client
import logging
import socket
import struct
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from native.ports import LOOPBACK
from tasks.monitoring.exporter.listener import Limits, Listener
from tests.conftest import unavailable
from tests.support.worker import wait_until


def answer(request: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Says ok; at /much much more than the client's and the server's system keep for a client that does not read."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"ok" if request["PATH_INFO"] == "/" else bytes(50_000_000)]


@contextmanager
def listening(limits: Limits, address: str = LOOPBACK) -> Iterator[Listener]:
    with Listener(address, 0, answer, limits) as listener:
        thread = threading.Thread(target=listener.serve_forever, args=[0.02])
        thread.start()
        try:
            yield listener
        finally:
            listener.shutdown()
            thread.join()


def said(listener: Listener) -> bytes:
    address, port = listener.socket.getsockname()[:2]
    connection = http.client.HTTPConnection(address, port, timeout=10)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read()
    finally:
        connection.close()


def is_ended(connection: socket.socket, drip: bytes = b"") -> bool:
    """Whether the connection is at its end. Sends `drip` if not."""
    connection.settimeout(0.05)
    try:
        if drip:
            connection.sendall(drip)
        return connection.recv(100) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def threads() -> int:
    return sum("process_request_thread" in thread.name for thread in threading.enumerate())


def test_silent_and_slow_clients_give_their_places_to_others(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with ExitStack() as stack, caplog.at_level(logging.INFO):
        listener = stack.enter_context(listening(Limits(connections=3, request=60, answer=60)))
        address = listener.socket.getsockname()[:2]
        silent = [stack.enter_context(socket.create_connection(address)) for _ in range(12)]
        assert [said(listener) for _ in range(3)] == [b"ok"] * 3
        assert is_ended(silent[0])
        assert not is_ended(silent[-1])
        wait_until(lambda: threads() <= 3, "there are more threads than places")
        (line,) = caplog.messages
        assert line.endswith(f"1; the newest, from {LOOPBACK}, brought no request while others waited")
    assert "Traceback" not in capfd.readouterr().err + caplog.text


def test_a_request_and_an_answer_are_bounded_in_time(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with ExitStack() as stack, caplog.at_level(logging.INFO):
        listener = stack.enter_context(listening(Limits(connections=5, request=1, answer=1)))
        address = listener.socket.getsockname()[:2]
        silent, dripping, deaf, gone = (stack.enter_context(socket.create_connection(address)) for _ in range(4))
        # One goes away without a word
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.close()
        deaf.sendall(b"GET /much HTTP/1.0\r\n\r\n")
        dripping.sendall(b"GET / HTTP/1.0\r\nX-Drip: ")
        wait_until(lambda: is_ended(dripping, b"x"), "a client that sends bytes one by one stays")
        wait_until(lambda: is_ended(silent), "a silent client stays")
        wait_until(lambda: not listener._open, "a client that does not read its answer stays")
        assert said(listener) == b"ok"
    assert "Traceback" not in capfd.readouterr().err + caplog.text
    assert len(caplog.messages) == 1


def test_it_listens_on_ipv6() -> None:
    try:
        with listening(Limits(2, 10, 10), "::1") as listener:
            assert listener.socket.getsockname()[0] == "::1"
            assert said(listener) == b"ok"
    except OSError as error:
        if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            raise
        unavailable(f"no IPv6: {error}")
