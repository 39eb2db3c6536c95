"""An IMAP server for thousands of watched mailboxes, each with a few empty folders, in one thread.

python -m benchmarks.support.watched_server [--certificate FILE --key FILE]

Prints its port, and then a line for each line of its input:

deliver USER NUMBER   puts that message into the user's INBOX and tells whoever waits in IDLE; prints the number with
                      the time just before (seconds since 1970)
drop                  ends all connections; prints the time just before
logins SINCE          prints the times of all logins since then

The server ends with its input. The commands of IMAP are those of the scripted server of the tests.
"""

import os
import resource
import selectors
import socket
import ssl
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import click

from benchmarks.support.mailbox import message_maker
from benchmarks.support.stack import PASSWORD
from tests.support.imap_mailbox import ScriptedFolder
from tests.support.imap_server import QRESYNC
from tests.support.imap_session import Session

_FOLDERS = ("INBOX", "Sent", "Drafts", "Trash", "Archive")
_READ_BYTES = 64 * 1024
_BACKLOG = 1024


class _Mailbox:
    """One user's mail, as `Session` wants it."""

    capabilities = f"{QRESYNC} IDLE"
    password = PASSWORD
    login_refusal = message_limit = None
    tokens: frozenset[str] = frozenset()

    def __init__(self, user: str) -> None:
        self.user, self.logins = user, 0
        self.bodies: Counter[int] = Counter()
        self.body_form: dict[int, str] = {}
        self.arrange: Callable[[list[bytes]], list[bytes]] = list
        self.folders = {path.encode(): ScriptedFolder(path.encode()) for path in _FOLDERS}
        self.idle: set[_Connection] = set()

    @property
    def exists(self) -> bytes:
        return b"* %d EXISTS\r\n" % len(self.folders[b"INBOX"].uids)


class _Session(Session):
    """A session that belongs to no mailbox before its login."""

    def __init__(self, site: "_Server") -> None:
        super().__init__(_Mailbox(""))  # type: ignore[arg-type]  # it answers what a session asks of a server
        self._site = site

    def _log_in(self, user: bytes, password: bytes) -> bytes:
        self.server = self._site.mailbox(user.decode())  # type: ignore[assignment]  # as above
        self._site.logins.append(time.time())
        return super()._log_in(user, password)


class _Connection:
    def __init__(self, server: "_Server", connected: socket.socket) -> None:
        self.socket, self._server = connected, server
        self._session = _Session(server)
        self._shakes_hands = isinstance(connected, ssl.SSLSocket)
        self._received, self._unsent, self._told = b"", b"", b""
        if not self._shakes_hands:
            self.send(b"* OK ready\r\n")

    @property
    def mailbox(self) -> _Mailbox:
        return self._session.server  # type: ignore[return-value]  # the mailbox set at login

    def work(self) -> None:
        """Read and answer what is there, and send what could not be sent before."""
        try:
            if self._shakes_hands:
                self.socket.do_handshake()  # type: ignore[attr-defined]  # it is an SSLSocket here
                self._shakes_hands = False
                self.send(b"* OK ready\r\n")
            self.send(b"")
            while True:
                data = self.socket.recv(_READ_BYTES)
                if not data:
                    return self.close()
                self._received += data
                self._answer()
        except (BlockingIOError, ssl.SSLWantReadError):
            self._server.wait_for(self, selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent else 0))
        except ssl.SSLWantWriteError:
            self._server.wait_for(self, selectors.EVENT_WRITE)
        except OSError:
            self.close()

    def tell(self) -> None:
        """Say how many messages there are in INBOX, if that was not said yet."""
        if self._told != self.mailbox.exists:
            self._told = self.mailbox.exists
            self.send(self._told)

    def send(self, data: bytes) -> None:
        self._unsent += data
        try:
            while self._unsent:
                self._unsent = self._unsent[self.socket.send(self._unsent) :]
        except (BlockingIOError, ssl.SSLWantWriteError):
            self._server.wait_for(self, selectors.EVENT_READ | selectors.EVENT_WRITE)

    def close(self) -> None:
        self.mailbox.idle.discard(self)
        self._server.forget(self)

    def _answer(self) -> None:
        *lines, self._received = self._received.split(b"\r\n")
        for line in lines:
            tag, _, command = (b"", b"", line) if self._session.expects_more else line.partition(b" ")
            answer, _ = self._session.run(tag, command)
            self.send(answer)
            if command.upper().startswith((b"EXAMINE", b"SELECT")):
                self._told = self.mailbox.exists
            (self.mailbox.idle.add if self._session.is_idle else self.mailbox.idle.discard)(self)
            if self._session.is_idle:
                self.tell()


class _Server:
    def __init__(self, tls: ssl.SSLContext | None) -> None:
        self._mailboxes: dict[str, _Mailbox] = {}
        self._connections: set[_Connection] = set()
        self.logins: list[float] = []
        self._tls, self._make = tls, message_maker()
        self._orders: dict[str, Callable[..., Iterable[object]]] = {
            "deliver": self._deliver,
            "drop": self._drop,
            "logins": lambda since: [moment for moment in self.logins if moment >= float(since)],
        }
        self._selector = selectors.DefaultSelector()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]

    def serve(self) -> None:
        """Serve until the input ends."""
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(sys.stdin, selectors.EVENT_READ)
        orders = b""
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._listener:
                    self._accept()
                elif isinstance(key.data, _Connection):
                    if key.data in self._connections:  # which an order has not just dropped
                        key.data.work()
                else:
                    data = os.read(sys.stdin.fileno(), _READ_BYTES)
                    if not data:
                        return
                    *lines, orders = (orders + data).split(b"\n")
                    for line in lines:
                        order, *words = line.decode().split()
                        print(*self._orders[order](*words), flush=True)

    def mailbox(self, user: str) -> _Mailbox:
        if user not in self._mailboxes:
            self._mailboxes[user] = _Mailbox(user)
        return self._mailboxes[user]

    def wait_for(self, connection: _Connection, events: int) -> None:
        if connection.socket.fileno() in self._selector.get_map():
            self._selector.modify(connection.socket, events, connection)

    def forget(self, connection: _Connection) -> None:
        self._connections.discard(connection)
        self._selector.unregister(connection.socket)
        connection.socket.close()

    def _accept(self) -> None:
        try:
            while True:
                connected, _ = self._listener.accept()
                connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connected.setblocking(False)
                if self._tls:
                    connected = self._tls.wrap_socket(connected, server_side=True, do_handshake_on_connect=False)
                connection = _Connection(self, connected)
                self._connections.add(connection)
                self._selector.register(connected, selectors.EVENT_READ, connection)
        except BlockingIOError:
            return

    def _deliver(self, user: str, number: str) -> tuple[str, float]:
        mailbox = self.mailbox(user)
        raw, now = self._make(int(number)), time.time()
        mailbox.folders[b"INBOX"].append(raw)
        for connection in list(mailbox.idle):
            connection.tell()
        return number, now

    def _drop(self) -> list[float]:
        now = time.time()
        for connection in list(self._connections):
            connection.close()
        return [now]


@click.command(help=__doc__)
@click.option("--certificate", type=click.Path(path_type=Path, exists=True))
@click.option("--key", type=click.Path(path_type=Path, exists=True))
def main(certificate: Path | None, key: Path | None) -> None:
    tls = None
    if certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate, key)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    server = _Server(tls)
    print(server.port, flush=True)
    server.serve()


if __name__ == "__main__":
    main()
