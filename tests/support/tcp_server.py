"""What the tests' own servers have in common: a port with a thread for each connection, and scripted misbehaviour."""

import re
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Self

from tests.support.imap_faults import Action, Answer, Rule

HOST = "127.0.0.1"
_LOOK_UP_SECONDS = 0.05


class TcpServer:
    """Serves each connection in a thread. As a context manager it runs for the block."""

    host = HOST

    def __init__(self) -> None:
        self.connections = 0
        self._stopped = threading.Event()
        self._listener = socket.create_server((self.host, 0), backlog=200)
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.hang_up()
        for thread in list(self._threads):
            thread.join(5)

    def hang_up(self) -> None:
        """End the connections that would not end by themselves."""

    def serve(self, connection: socket.socket, number: int) -> None:
        """Serve connection number `number` (from 1) to its end."""
        raise NotImplementedError

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._start_thread(self.serve, connection, self.connections)

    def _start_thread(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()


class ScriptedServer(TcpServer):
    """Takes a line and answers it; `on` says when it does otherwise, `received` holds the commands."""

    def __init__(self) -> None:
        super().__init__()
        self.received: list[bytes] = []
        self.rules: list[Rule] = []
        self._lock = threading.RLock()

    def on(
        self, command: str, action: Action, *, times: int | None = 1, uid: int | None = None, after: int = 0
    ) -> Rule:
        """Misbehave at commands that match (`uid`: only those that ask for this body), at most `times` often."""
        rule = Rule(re.compile(command.encode(), re.IGNORECASE), action, times, uid, after)
        self.rules.append(rule)
        return rule

    def commands(self, name: str) -> list[bytes]:
        """What was received that begins with `name`; in IMAP, without tags."""
        with self._lock:
            return [line for line in self.received if line.upper().startswith(name.encode())]

    def lines(self, connection: socket.socket) -> Iterable[bytes]:
        """What the client sends, without line ends."""
        connection.settimeout(_LOOK_UP_SECONDS)
        buffer = b""
        while not self._stopped.is_set():
            while b"\r\n" in buffer:
                line, _, buffer = buffer.partition(b"\r\n")
                yield line
            try:
                data = connection.recv(65536)
            except TimeoutError:
                continue
            if not data:
                return
            if hasattr(socket, "TCP_QUICKACK"):  # on Linux
                # imaplib sends the end of a line by itself after a literal, and would wait for this: 40 ms each time.
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            buffer += data

    def misbehave(self, answer: Answer, command: bytes, asked_for: Sequence[int] = ()) -> None:
        """Change the answer as the first rule that applies says."""
        for rule in self.rules:
            if rule.applies(command, list(asked_for)):
                rule.action(answer)
                return

    def send(self, connection: socket.socket, answer: Answer) -> bool:
        """Send the answer; whether the connection goes on."""
        self._stopped.wait(answer.delay)
        connection.settimeout(20)
        connection.sendall(answer.data)
        connection.settimeout(_LOOK_UP_SECONDS)
        while answer.then == "hang" and not self._stopped.is_set():
            try:
                if not connection.recv(65536):
                    break
            except TimeoutError:
                continue
        return answer.then == "go on"
