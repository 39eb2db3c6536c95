"""A scripted IMAP server (RFC 3501, RFC 4731, RFC 5819, RFC 7162): for what no real server can be made to do.

Whatever a real server can show is tested on Dovecot. This one is used where a server has to hang, break off in the
middle of a literal, give wrong lengths and numbers, or offer less than any server of today does, and where a test
has to know what the client sent and how often. It keeps mail in memory and knows the commands that the sync engine
uses. `on` says how it misbehaves; `received`, `connections`, `logins` and `bodies` say what happened to it.
"""

import re
import socket
from collections import Counter
from collections.abc import Callable

from tests.support.imap_faults import Answer, Rule, refuse
from tests.support.imap_mailbox import ScriptedFolder
from tests.support.imap_session import Session
from tests.support.tcp_server import ScriptedServer

BASIC = "IMAP4rev1"
CONDSTORE = "IMAP4rev1 AUTH=PLAIN CONDSTORE"
QRESYNC = "IMAP4rev1 AUTH=PLAIN ID ENABLE CONDSTORE QRESYNC UIDPLUS ESEARCH LIST-EXTENDED SPECIAL-USE LIST-STATUS"
# What imap.gmail.com answers to CAPABILITY.
GMAIL = (
    "IMAP4rev1 UNSELECT IDLE NAMESPACE QUOTA ID XLIST CHILDREN X-GM-EXT-1 UIDPLUS ENABLE MOVE CONDSTORE ESEARCH "
    "LIST-EXTENDED LIST-STATUS SPECIAL-USE AUTH=XOAUTH2 AUTH=PLAIN AUTH=OAUTHBEARER"
)


class ImapServer(ScriptedServer):
    """One user's mail for any number of connections, each in a thread. As a context manager it runs for the block."""

    def __init__(self, capabilities: str = QRESYNC, user: str = "ada", password: str = "sample") -> None:
        super().__init__()
        self.capabilities = capabilities
        self.user, self.password = user, password
        self.tokens: set[str] = set()  # access tokens that are good; one that no longer is ends its sessions
        self.folders: dict[bytes, ScriptedFolder] = {}
        self.greeting = b"* OK ready\r\n"
        self.login_refusal: str | None = None  # what a login is refused with, right or wrong
        self.arrange: Callable[[list[bytes]], list[bytes]] = list  # the order of the items in FETCH
        self.body_form: dict[int, str] = {}  # by UID: literal, quoted, nil or left out
        self.declined: list[Rule] = []
        self.message_limit: int | None = None  # a command works on so many messages, the newest (RFC 9738)
        self.tells_limit = "tagged"  # or untagged, or not at all: silent
        self.idle: set[socket.socket] = set()  # connections that wait to be told of something
        self._untold: dict[socket.socket, bytes] = {}  # connections between two IDLEs, and what they are told later
        self.open_now = self.most_open = 0
        self.logins = 0
        self.bodies: Counter[int] = Counter()
        self.add_folder("INBOX")

    @property
    def inbox(self) -> ScriptedFolder:
        """INBOX."""
        return self.folders[b"INBOX"]

    def add_folder(self, path: str | bytes, **attributes: object) -> ScriptedFolder:
        """Make a folder; its path goes over the wire as it is."""
        wire = path.encode() if isinstance(path, str) else path
        self.folders[wire] = ScriptedFolder(wire, **attributes)  # type: ignore[arg-type]
        return self.folders[wire]

    def decline(self, command: str, words: str, *, times: int | None = None) -> Rule:
        """Answer commands that match with NO or BAD, and do not carry them out."""
        self.declined.append(Rule(re.compile(command.encode(), re.IGNORECASE), refuse(words), times, None, 0))
        return self.declined[-1]

    def expunge(self, folder: ScriptedFolder, *uids: int) -> None:
        """What EXPUNGE does."""
        folder.expunge(*uids)

    def tell(self, data: bytes, *, hang_up: bool = False) -> None:
        """Send something to each connection in IDLE, and end it if wanted.

        A connection between two IDLEs is told when it begins the next one, and ended at once.
        """
        with self._lock:
            if not hang_up:
                self._untold = {connection: untold + data for connection, untold in self._untold.items()}
            for connection in [*self.idle, *self._untold] if hang_up else self.idle:
                connection.settimeout(20)
                connection.sendall(data)
                connection.settimeout(0.05)
                if hang_up:
                    connection.shutdown(socket.SHUT_RDWR)

    def move(self, folder: ScriptedFolder, target: ScriptedFolder, uids: list[int]) -> list[int]:
        """What MOVE does; the new UIDs."""
        target.append(*[folder.messages[uid].raw for uid in uids])
        folder.expunge(*uids)
        return target.uids[-len(uids) :]

    def serve(self, connection: socket.socket, number: int) -> None:
        session = Session(self)
        with self._lock:
            self.open_now += 1
            self.most_open = max(self.most_open, self.open_now)
        try:
            connection.sendall(self.greeting)
            for line in self.lines(connection):
                if not self._answer(connection, session, line):
                    return
        except OSError:
            return  # the client has gone
        finally:
            connection.close()
            with self._lock:
                self.idle.discard(connection)
                self._untold.pop(connection, None)
                self.open_now -= 1

    def _answer(self, connection: socket.socket, session: Session, line: bytes) -> bool:
        with self._lock:
            tag, _, command = (b"", b"", line) if session.expects_more else line.partition(b" ")
            self.received.append(command)
            declined = next((rule for rule in self.declined if rule.applies(command, [])), None)
            if declined:
                answer = Answer(tag, b"")
                declined.action(answer)
                return self.send(connection, answer)
            data, is_last = session.run(tag, command)
            if session.is_idle:
                self.idle.add(connection)
                data += self._untold.pop(connection, b"")
            elif connection in self.idle:
                self.idle.remove(connection)
                self._untold[connection] = b""
            answer = Answer(session.tag, data, "drop" if is_last else "go on")
            self.misbehave(answer, command, session.asked_for)
        return self.send(connection, answer)
