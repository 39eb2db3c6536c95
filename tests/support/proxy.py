"""A TCP proxy between a client and a real server, that makes the connection slow and counts."""

import socket
import threading
import time

HOST = "127.0.0.1"
_PIECE = 4096


class Proxy:
    """Passes on at most `rate` bytes a second from the server to each client; `rate` may change at any time."""

    host = HOST

    def __init__(self, target: tuple[str, int], rate: float) -> None:
        self.target, self.rate = target, rate
        self.connections = 0
        self.received = 0  # bytes from the server
        self._stopped = threading.Event()
        self._listener = socket.create_server((HOST, 0))
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> "Proxy":
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in list(self._threads):
            thread.join(5)

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            server = socket.create_connection(self.target)
            for source, sink, is_slow in ((client, server, False), (server, client, True)):
                thread = threading.Thread(target=self._pass_on, args=(source, sink, is_slow), daemon=True)
                self._threads.append(thread)
                thread.start()

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
