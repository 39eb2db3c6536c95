"""An SMTP server that records what it takes, and can be made to fail at any point of a message (RFC 5321).

Real sockets, TLS and logins. A server of the distribution takes mail just as well, but cannot be made to die between
a message's last line and its answer. `on` says what goes wrong and where; `messages`, `received`, `connections` and
`logins` say what happened to it.

The points of one message, in order; each command has one before it is looked at and one after it was answered:

    connect, ehlo, auth, mail, rcpt, data, content (its first line is here), dot (all is here, and not yet taken),
    accepted (taken for good, and not yet answered), dot answered
"""

import base64
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from native.dovecot import TlsFiles
from tests.support.tcp_server import TcpServer

EXTENSIONS = ("PIPELINING", "SIZE 10485760", "8BITMIME", "SMTPUTF8", "AUTH PLAIN LOGIN XOAUTH2")
POINTS = (
    *("connect", "connect answered", "ehlo", "ehlo answered", "auth", "auth answered"),
    *("mail", "mail answered", "rcpt", "rcpt answered", "data", "data answered"),
    *("content", "dot", "accepted", "dot answered"),
)
# Where not every message comes by.
SOMETIMES = ("helo", "starttls")


class Dropped(Exception):  # noqa: N818 - not an error of the test
    """The connection is closed at this point."""


@dataclass(frozen=True)
class Taken:
    """A message for which the server took responsibility."""

    sender: str
    recipients: tuple[str, ...]
    parameters: str
    raw: bytes
    connection: int


@dataclass
class Rule:
    """Happens at a point, where `pattern` is found in the command or the message, so many times (None: always)."""

    point: str
    action: Callable[[], str | None]
    pattern: re.Pattern[bytes]
    times: int | None
    after: int
    hits: int = 0


@dataclass
class _Envelope:
    sender: str = ""
    parameters: str = ""
    recipients: list[str] = field(default_factory=list)


def reply(words: str) -> Callable[[], str | None]:
    """Answer this instead."""
    return lambda: words


def drop() -> None:
    """Close the connection."""
    raise Dropped


def slowly(seconds: float) -> Callable[[], None]:
    """Go on after a while."""
    return lambda: time.sleep(seconds)


class SmtpServer(TcpServer):
    """Any number of connections, each in a thread. As a context manager it runs for the block."""

    def __init__(
        self,
        extensions: tuple[str, ...] = EXTENSIONS,
        *,
        password: str = "sample",
        tls: TlsFiles | None = None,
        implicit_tls: bool = False,
    ) -> None:
        super().__init__()
        self.extensions, self.password, self.implicit_tls = extensions, password, implicit_tls
        self._tls: ssl.SSLContext | None = None
        if tls:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(tls.certificate, tls.key)
        self.messages: list[Taken] = []
        self.received: list[bytes] = []
        self.logins = 0
        self.holds_answers = False  # those to MAIL and RCPT until DATA is there (RFC 2920 section 3.2)
        self.repeats_logins = ""  # what a login is answered with; {} stands for what came last
        self.on_taken: Callable[[Taken], None] | None = None
        self._rules: list[Rule] = []
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()

    def on(
        self,
        point: str,
        action: Callable[[], str | None],
        *,
        where: bytes = b"",
        times: int | None = 1,
        after: int = 0,
    ) -> Rule:
        """Do this at a point, `times` often after the first `after`; `where` is a pattern of what arrived there."""
        assert point in (*POINTS, *SOMETIMES), point
        rule = Rule(point, action, re.compile(where), times, after)
        self._rules.append(rule)
        return rule

    def taken(self, header: str = "Subject") -> list[str]:
        """That header of each message taken, in order."""
        find = re.compile(rf"(?m)^{header}: ([^\r\n]*)".encode())
        return [match[1].decode() for message in self.messages if (match := find.search(message.raw))]

    def hang_up(self) -> None:
        """Close every connection, as a server that restarts does."""
        for connection in list(self._open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def at(self, point: str, data: bytes = b"") -> str | None:
        """What a rule wants to be answered at this point, if one applies."""
        with self._lock:
            applying = None
            for rule in self._rules:
                if rule.point != point or not rule.pattern.search(data) or rule.hits == rule.times:
                    continue
                if rule.after:
                    rule.after -= 1
                    continue
                rule.hits += 1
                applying = rule
                break
        return applying.action() if applying else None

    def serve(self, plain: socket.socket, number: int) -> None:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.settimeout(60)
        self._open.add(plain)
        session = _Session(self, plain, number)
        try:
            if self._tls and self.implicit_tls:
                session.encrypt(self._tls)
            session.run()
        except (Dropped, OSError, EOFError):
            pass
        finally:
            self._open.discard(plain)
            session.close()

    def encrypt(self, session: "_Session") -> bool:
        """Whether there is TLS to go on with, after STARTTLS."""
        if self._tls is None:
            return False
        session.send("220 go ahead")
        session.encrypt(self._tls)
        return True

    def record(self, taken: Taken) -> None:
        with self._lock:
            self.messages.append(taken)
        if self.on_taken:
            self.on_taken(taken)


class _Session:
    """One connection."""

    def __init__(self, server: SmtpServer, connection: socket.socket, number: int) -> None:
        self.server, self.number = server, number
        self.envelope: _Envelope | None = None
        self.is_encrypted = False
        self._held: list[str] = []
        self._use(connection)

    def _use(self, connection: socket.socket) -> None:
        self.connection = connection
        self.file = connection.makefile("rb")

    def encrypt(self, context: ssl.SSLContext) -> None:
        self._use(context.wrap_socket(self.connection, server_side=True))
        self.is_encrypted = True

    def close(self) -> None:
        for closable in (self.file, self.connection):
            try:
                closable.close()
            except OSError:
                continue

    def send(self, words: str) -> None:
        self.connection.sendall(f"{words}\r\n".encode())

    def run(self) -> None:
        self.send(self.server.at("connect") or "220 test ready")
        self.server.at("connect answered")
        while line := self.file.readline():
            self.server.received.append(line.rstrip(b"\r\n"))
            verb, _, rest = line.decode().rstrip("\r\n").partition(" ")
            verb = verb.lower()
            if verb == "quit":
                self.send("221 bye")
                return
            if verb == "starttls":
                words = self.server.at(verb, line)
                if words or not self.server.encrypt(self):
                    self.send(words or "454 no TLS")
                continue
            words = self.server.at(verb, line) or getattr(self, f"_{verb}", self._unknown)(rest)
            self._held.append(words)
            if self.server.holds_answers and verb in ("mail", "rcpt"):
                continue
            self.send("\r\n".join(self._held))
            self._held.clear()
            if words.startswith("421"):
                return
            self.server.at(f"{verb} answered", line)
            if verb == "data" and words.startswith("354"):
                self._content()

    def _unknown(self, _: str) -> str:
        return "500 what?"

    def _ehlo(self, _: str) -> str:
        offered = [*self.server.extensions, *(["STARTTLS"] if self._can_encrypt else [])]
        lines = ["test", *offered]
        return "\r\n".join(f"250{' ' if line is lines[-1] else '-'}{line}" for line in lines)

    @property
    def _can_encrypt(self) -> bool:
        return self.server._tls is not None and not self.is_encrypted

    def _helo(self, _: str) -> str:
        return "250 test"

    def _auth(self, rest: str) -> str:
        mechanism, _, initial = rest.partition(" ")
        if mechanism == "LOGIN":
            for prompt in ("Username:", "Password:"):
                self.send(f"334 {base64.b64encode(prompt.encode()).decode()}")
                initial = self.file.readline().decode().rstrip("\r\n")
            self.server.received.append(initial.encode())
        if self.server.repeats_logins:
            return self.server.repeats_logins.format(initial)
        if mechanism == "LOGIN":
            secret = base64.b64decode(initial).decode()
        elif mechanism == "XOAUTH2":
            secret = base64.b64decode(initial).decode().split("auth=Bearer ")[1].rstrip("\1")
            if secret != self.server.password:
                self.send("334 " + base64.b64encode(b'{"status":"401"}').decode())
                self.file.readline()
        else:
            secret = base64.b64decode(initial).decode().split("\0")[2]
        if secret != self.server.password:
            return "535 5.7.8 wrong password"
        self.server.logins += 1
        return "235 welcome"

    def _mail(self, rest: str) -> str:
        match = re.fullmatch(r"FROM:<([^>]*)>(.*)", rest, re.IGNORECASE)
        if not match:
            return "501 no"
        self.envelope = _Envelope(match[1], match[2].strip())
        return "250 sender ok"

    def _rcpt(self, rest: str) -> str:
        if self.envelope is None:
            return "503 MAIL first"
        match = re.fullmatch(r"TO:<([^>]+)>", rest, re.IGNORECASE)
        if not match:
            return "501 no"
        self.envelope.recipients.append(match[1])
        return "250 recipient ok"

    def _data(self, _: str) -> str:
        if self.envelope is None or not self.envelope.recipients:
            return "503 RCPT first"
        return "354 go on"

    def _rset(self, _: str) -> str:
        self.envelope = None
        return "250 forgotten"

    def _noop(self, _: str) -> str:
        return "250 ok"

    def _content(self) -> None:
        lines: list[bytes] = []
        while (line := self.file.readline()) != b".\r\n":
            if not line:
                raise EOFError
            if not lines:
                self.server.at("content", line)
            lines.append(line[1:] if line.startswith(b".") else line)
        raw = b"".join(lines)
        envelope, self.envelope = self.envelope, None
        assert envelope is not None
        words = self.server.at("dot", raw)
        if words is None:
            taken = Taken(envelope.sender, tuple(envelope.recipients), envelope.parameters, raw, self.number)
            self.server.record(taken)
            words = self.server.at("accepted", raw) or "250 taken"
        self.send(words)
        if words.startswith("421"):
            raise Dropped
        self.server.at("dot answered", raw)
