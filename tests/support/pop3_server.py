"""A scripted POP3 server (RFC 1939, RFC 2449): for what no real server can be made to do.

Whatever a real server can show is tested on Dovecot. This one hangs, breaks off, refuses, and offers less than any
server of today does. As on a real one, what is deleted goes when QUIT is answered, and not before. It misbehaves as
the scripted IMAP server does (`tests.support.imap_faults`).
"""

import base64
import re
import socket
from collections import Counter
from collections.abc import Iterable

from tests.support.imap_faults import Answer
from tests.support.tcp_server import ScriptedServer

EVERYTHING = "USER SASL=PLAIN TOP UIDL PIPELINING RESP-CODES"


class Pop3Server(ScriptedServer):
    """One user's mail for any number of connections, each in a thread. As a context manager it runs for the block.

    `messages` are by their unique-ids. `retrieved` counts who was asked for, `received` holds the commands.
    """

    def __init__(self, capabilities: str = EVERYTHING, user: str = "ada", password: str = "sample") -> None:
        super().__init__()
        self.capabilities = capabilities
        self.user, self.password = user, password
        self.greeting = b"+OK ready\r\n"
        self.messages: dict[str, bytes] = {}
        self.retrieved: Counter[str] = Counter()
        self.logins = 0

    def serve(self, connection: socket.socket, number: int) -> None:
        session = _Session(self)
        try:
            connection.sendall(self.greeting)
            for line in self.lines(connection):
                if not self._answer(connection, session, line):
                    return
        except OSError:
            return  # the client has gone
        finally:
            connection.close()

    def _answer(self, connection: socket.socket, session: "_Session", line: bytes) -> bool:
        with self._lock:
            self.received.append(line)
            answer = Answer(b"", session.run(line), "drop" if line.upper() == b"QUIT" else "go on")
            self.misbehave(answer, line)
            if line.upper() == b"QUIT" and answer.data.startswith(b"+OK"):
                session.delete()
        return self.send(connection, answer)


class _Session:
    """One connection: its numbers are those of the moment it began."""

    def __init__(self, server: Pop3Server) -> None:
        self.server = server
        self._names = list(server.messages)
        self._name = ""
        self._challenged = self._logged_in = self._utf8_is_on = False
        self._deleted: set[str] = set()

    def run(self, line: bytes) -> bytes:
        if self._challenged:
            self._challenged = False
            _, user, password = base64.b64decode(line).decode().split("\0")
            return self._log_in(user, password)
        name, _, rest = line.decode().partition(" ")
        command = getattr(self, "_" + name.lower(), None)
        if command is None or (name.upper() in {"TOP", "UIDL"} and name.upper() not in self.server.capabilities):
            return b"-ERR unknown command\r\n"
        if name.upper() not in {"CAPA", "UTF8", "USER", "PASS", "AUTH", "QUIT"} and not self._logged_in:
            return b"-ERR log in first\r\n"
        return command(rest)

    def delete(self) -> None:
        for name in self._deleted:
            self.server.messages.pop(name, None)

    def _capa(self, _: str) -> bytes:
        if not self.server.capabilities:
            return b"-ERR unknown command\r\n"
        words = (word.replace("=", " ") for word in self.server.capabilities.split())
        return _lines("+OK", words)

    def _utf8(self, _: str) -> bytes:
        """RFC 6856: only before the login, and only where it is offered."""
        if "UTF8" not in self.server.capabilities or self._logged_in:
            return b"-ERR not now\r\n"
        self._utf8_is_on = True
        return b"+OK\r\n"

    def _user(self, user: str) -> bytes:
        self._name = user
        return b"+OK\r\n"

    def _pass(self, password: str) -> bytes:
        return self._log_in(self._name, password)

    def _auth(self, _: str) -> bytes:
        self._challenged = True
        return b"+ \r\n"

    def _log_in(self, user: str, password: str) -> bytes:
        self.server.logins += 1
        self._logged_in = (user, password) == (self.server.user, self.server.password)
        return b"+OK\r\n" if self._logged_in else b"-ERR [AUTH] wrong user name or password\r\n"

    def _stat(self, _: str) -> bytes:
        return f"+OK {len(self._names)} {sum(map(len, self.server.messages.values()))}\r\n".encode()

    def _list(self, _: str) -> bytes:
        return _lines("+OK", (f"{n} {len(self.server.messages[name])}" for n, name in enumerate(self._names, 1)))

    def _uidl(self, _: str) -> bytes:
        return _lines("+OK", (f"{n} {name}" for n, name in enumerate(self._names, 1)))

    def _retr(self, number: str) -> bytes:
        name = self._names[int(number) - 1]
        self.server.retrieved[name] += 1
        raw = self.server.messages[name]
        if not raw.isascii() and "UTF8" in self.server.capabilities and not self._utf8_is_on:
            raw = b"Subject: This message cannot be displayed\r\n\r\nAsk for UTF8.\r\n"
        return b"+OK\r\n" + _stuffed(raw)

    def _top(self, rest: str) -> bytes:
        name = self._names[int(rest.split()[0]) - 1]
        return b"+OK\r\n" + _stuffed(self.server.messages[name].partition(b"\r\n\r\n")[0] + b"\r\n\r\n")

    def _dele(self, number: str) -> bytes:
        self._deleted.add(self._names[int(number) - 1])
        return b"+OK\r\n"

    def _quit(self, _: str) -> bytes:
        return b"+OK bye\r\n"


def _lines(first: str, rest: Iterable[str]) -> bytes:
    return "".join(f"{line}\r\n" for line in (first, *rest, ".")).encode("latin-1")


def _stuffed(raw: bytes) -> bytes:
    body = raw if raw.endswith(b"\r\n") else raw + b"\r\n"
    return re.sub(rb"^\.", b"..", body, flags=re.MULTILINE) + b".\r\n"
