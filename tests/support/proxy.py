"""A TCP proxy between a client and a real server, that makes the connection slow and counts."""

import socket
import time

from tests.support.tcp_server import TcpServer

_PIECE = 4096


class Proxy(TcpServer):
    """Passes on at most `rate` bytes a second from the server to each client; `rate` may change at any time."""

    def __init__(self, target: tuple[str, int], rate: float) -> None:
        super().__init__()
        self.target, self.rate = target, rate
        self.received = 0  # bytes from the server

    def serve(self, client: socket.socket, number: int) -> None:
        try:
            server = socket.create_connection(self.target)
        except OSError:
            client.close()
            return
        self._start_thread(self._pass_on, client, server, False)
        self._pass_on(server, client, True)

    def _pass_on(self, source: socket.socket, sink: socket.socket, is_slow: bool) -> None:
        source.settimeout(0.2)
        due = time.monotonic()
        while not self._stopped.is_set():
            try:
                data = source.recv(_PIECE)
            except TimeoutError:
                continue
            except OSError:
                break
            if not data:
                break
            if is_slow:
                self.received += len(data)
                due = max(due, time.monotonic()) + len(data) / self.rate
                self._stopped.wait(due - time.monotonic())
            try:
                sink.sendall(data)
            except OSError:
                break
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
