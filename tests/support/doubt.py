"""A connection to PostgreSQL that is lost in the middle of a COMMIT: nobody can know what became of it."""

import socket

from tests.support.tcp_server import TcpServer

# The message in which libpq sends this statement (protocol: Query).
_COMMIT = b"Q\x00\x00\x00\x0bCOMMIT\x00"
_ALL = 2**20


class CommitsInDoubt(TcpServer):
    """Passes everything on, but for one COMMIT, at which it ends the connection: before PostgreSQL has the COMMIT, or
    after PostgreSQL has answered."""

    def __init__(self, target: tuple[str, int]) -> None:
        super().__init__()
        self.target = target
        self._left = 0
        self._is_done = False

    def lose(self, number: int, *, is_done: bool) -> None:
        """Lose the COMMIT with this number from now on, from 1; `is_done` says whether PostgreSQL does it."""
        self._left, self._is_done = number, is_done

    @property
    def has_lost(self) -> bool:
        """Whether it has lost the COMMIT that it was to lose."""
        return self._left <= 0

    def serve(self, client: socket.socket, number: int) -> None:
        with socket.create_connection(self.target) as server, client:
            for end in (client, server):
                end.settimeout(0.2)
            self._start_thread(self._pass_on, server, client)
            while not self._stopped.is_set():
                try:
                    data = client.recv(_ALL)
                except TimeoutError:
                    continue
                except OSError:
                    break
                if not data or (data == _COMMIT and self._is_to_be_lost(client, server)):
                    break
                server.sendall(data)
            for end in (client, server):
                _end(end)

    def _is_to_be_lost(self, client: socket.socket, server: socket.socket) -> bool:
        self._left -= 1
        if self._left != 0:
            return False
        _end(client)  # before the answer comes
        if self._is_done:
            server.sendall(_COMMIT)
            # PostgreSQL ends the connection once it has done what it was sent.
            server.shutdown(socket.SHUT_WR)
            self._stopped.wait(0.1)
        return True

    def _pass_on(self, server: socket.socket, client: socket.socket) -> None:
        while not self._stopped.is_set():
            try:
                data = server.recv(_ALL)
                client.sendall(data)
            except TimeoutError:
                continue
            except OSError:
                break
            if not data:
                break
        _end(client)


def _end(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
