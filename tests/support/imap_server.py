"""A scripted IMAP server (RFC 3501, RFC 4731, RFC 5819, RFC 7162): for what no real server can be made to do.

Whatever a real server can show is tested on Dovecot. This one is used where a server has to hang, break off in the
middle of a literal, give wrong lengths and numbers, or offer less than any server of today does, and where a test
has to know what the client sent and how often. It keeps mail in memory and knows the commands that the sync engine
uses. `on` says how it misbehaves; `received`, `connections`, `logins` and `bodies` say what happened to it.
"""

import re
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable

from tests.support.imap_faults import Action, Answer, Rule
from tests.support.imap_mailbox import ScriptedFolder
from tests.support.imap_session import Session

HOST = "127.0.0.1"
BASIC = "IMAP4rev1"
CONDSTORE = "IMAP4rev1 AUTH=PLAIN CONDSTORE"
QRESYNC = "IMAP4rev1 AUTH=PLAIN ID ENABLE CONDSTORE QRESYNC UIDPLUS ESEARCH LIST-EXTENDED SPECIAL-USE LIST-STATUS"
# What imap.gmail.com answers to CAPABILITY.
GMAIL = (
    "IMAP4rev1 UNSELECT IDLE NAMESPACE QUOTA ID XLIST CHILDREN X-GM-EXT-1 UIDPLUS ENABLE MOVE CONDSTORE ESEARCH "
    "LIST-EXTENDED LIST-STATUS SPECIAL-USE AUTH=XOAUTH2 AUTH=PLAIN AUTH=OAUTHBEARER"
)


class ImapServer:
    """One user's mail for any number of connections, each in a thread. As a context manager it runs for the block."""

    host = HOST

    def __init__(self, capabilities: str = QRESYNC, user: str = "ada", password: str = "sample") -> None:
        self.capabilities = capabilities
        self.user, self.password = user, password
        self.tokens: set[str] = set()  # access tokens that are good; one that no longer is ends its sessions
        self.folders: dict[bytes, ScriptedFolder] = {}
        self.greeting = b"* OK ready\r\n"
        self.login_refusal: str | None = None  # what a login is refused with, right or wrong
        self.arrange: Callable[[list[bytes]], list[bytes]] = list  # the order of the items in FETCH
        self.body_form: dict[int, str] = {}  # by UID: literal, quoted, nil or left out
        self.received: list[bytes] = []
        self.connections = 0
        self.open_now = self.most_open = 0
        self.logins = 0
        self.bodies: Counter[int] = Counter()
        self.rules: list[Rule] = []
        self.add_folder("INBOX")
        self._lock = threading.RLock()
        self._stopped = threading.Event()
        self._listener = socket.create_server((HOST, 0))
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    @property
    def inbox(self) -> ScriptedFolder:
        """INBOX."""
        return self.folders[b"INBOX"]

    def add_folder(self, path: str | bytes, **attributes: object) -> ScriptedFolder:
        """Make a folder; its path goes over the wire as it is."""
        wire = path.encode() if isinstance(path, str) else path
        self.folders[wire] = ScriptedFolder(wire, **attributes)  # type: ignore[arg-type]
        return self.folders[wire]

    def on(
        self, command: str, action: Action, *, times: int | None = 1, uid: int | None = None, after: int = 0
    ) -> Rule:
        """Misbehave at commands that match (`uid`: only those that ask for this body), at most `times` often."""
        rule = Rule(re.compile(command.encode(), re.IGNORECASE), action, times, uid, after)
        self.rules.append(rule)
        return rule

    def commands(self, name: str) -> list[bytes]:
        """What was received that begins with `name`, without tags."""
        with self._lock:
            return [line for line in self.received if line.upper().startswith(name.encode())]

    def __enter__(self) -> "ImapServer":
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
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        session = Session(self)
        connection.settimeout(0.05)
        with self._lock:
            self.open_now += 1
            self.most_open = max(self.most_open, self.open_now)
        try:
            connection.sendall(self.greeting)
            for line in self._lines(connection):
                if not self._answer(connection, session, line):
                    return
        except OSError:
            return  # the client has gone
        finally:
            connection.close()
            with self._lock:
                self.open_now -= 1

    def _lines(self, connection: socket.socket) -> Iterable[bytes]:
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
            buffer += data

    def _answer(self, connection: socket.socket, session: Session, line: bytes) -> bool:
        with self._lock:
            tag, _, command = (b"", b"", line) if session.challenged else line.partition(b" ")
            self.received.append(command)
            data, is_last = session.run(tag, command)
            answer = Answer(session.tag, data, "drop" if is_last else "go on")
            for rule in self.rules:
                if rule.applies(command, session.asked_for):
                    rule.action(answer)
                    break
        return self._send(connection, answer)

    def _send(self, connection: socket.socket, answer: Answer) -> bool:
        self._stopped.wait(answer.delay)
        connection.settimeout(20)
        connection.sendall(answer.data)
        connection.settimeout(0.05)
        while answer.then == "hang" and not self._stopped.is_set():
            try:
                if not connection.recv(65536):
                    break
            except TimeoutError:
                continue
        return answer.then == "go on"
