"""TCP proxies between clients and a real server: one that is slow and counts, and a network that goes silent."""

import socket
import threading
import time

from tests.support.tcp_server import TcpServer

_PIECE, _ALL = 4096, 2**20


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


class Network(TcpServer):
    """Passes everything on until it is `silent`, which it tells nobody: connections stay open, and new ones wait."""

    def __init__(self, target: tuple[str, int], late_seconds: float = 0) -> None:
        super().__init__()
        self.target, self.late_seconds = target, late_seconds
        self._passes = threading.Event()
        self._passes.set()
        self._forgotten = 0  # connections up to this number are never heard of again

    def be_silent(self, *, forget: bool) -> None:
        """What is sent from now on arrives when it is mended; if it forgets, only over connections still to come."""
        self._passes.clear()
        self._forgotten = self.connections if forget else 0

    def mend(self) -> None:
        """Go on."""
        self._passes.set()

    def serve(self, client: socket.socket, number: int) -> None:
        self._wait(number)
        try:
            target = socket.create_connection(self.target)
        except OSError:
            client.close()
            return
        with target as server, client:
            for end in (client, server):
                end.settimeout(0.2)
            self._start_thread(self._pass_on, client, server, number)
            self._pass_on(server, client, number)

    def _wait(self, number: int) -> None:
        while not self._stopped.is_set() and (number <= self._forgotten or not self._passes.is_set()):
            time.sleep(0.02)

    def _pass_on(self, source: socket.socket, sink: socket.socket, number: int) -> None:
        while not self._stopped.is_set():
            try:
                data = source.recv(_ALL)
                self._wait(number)
                self._stopped.wait(self.late_seconds)
                sink.sendall(data)
            except TimeoutError:
                continue
            except OSError:
                break
            if not data:
                break
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
