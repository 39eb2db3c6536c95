"""A scripted IMAP server (RFC 3501, RFC 4731, RFC 5819, RFC 7162): for what no real server can be made to do.

Whatever a real server can show is tested on Dovecot. This one is used where a server has to hang, break off in the
middle of a literal, give wrong lengths and numbers, or offer less than any server of today does, and where a test
has to know what the client sent and how often. It keeps mail in memory and knows the commands that the sync engine
uses. `faults` says how it misbehaves; `received`, `connections`, `logins` and `bodies` say what happened to it.
"""

import base64
import re
import socket
import threading
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tests.support.imap_faults import Action, Answer, Rule

HOST = "127.0.0.1"
BASIC = "IMAP4rev1"
CONDSTORE = "IMAP4rev1 AUTH=PLAIN CONDSTORE"
QRESYNC = "IMAP4rev1 AUTH=PLAIN ID ENABLE CONDSTORE QRESYNC UIDPLUS ESEARCH LIST-EXTENDED SPECIAL-USE LIST-STATUS"

# What every server has to take (RFC 7162 section 4); this one takes no more.
LONGEST_LINE = 8192
HIGHEST_UID = 2**32 - 1

_MESSAGE_ID = re.compile(rb"^Message-ID:.*\r\n(?:[ \t].*\r\n)*", re.IGNORECASE | re.MULTILINE)


@dataclass
class StoredMessage:
    """A message on the server. `raw` may be made when it is asked for, so that many take no memory."""

    raw: bytes | Callable[[], bytes]
    flags: tuple[str, ...] = ()
    modseq: int = 1
    internaldate: str = "02-Mar-2026 10:00:00 +0000"

    def content(self) -> bytes:
        """The message itself."""
        return self.raw if isinstance(self.raw, bytes) else self.raw()


@dataclass
class ScriptedFolder:
    """A folder, and what the server claims about it: None claims nothing, a number claims that."""

    path: bytes
    attributes: str = "\\HasNoChildren"
    uidvalidity: int | str | None = 1
    uidnext: int | None = 1
    exists: int | None = None
    modseq: int = 1
    messages: dict[int, StoredMessage] = field(default_factory=dict)
    uids: list[int] = field(default_factory=list)
    removed: dict[int, int] = field(default_factory=dict)

    def append(self, *messages: bytes | Callable[[], bytes], flags: str = "", uid: int | None = None) -> None:
        """Add messages; `uid` is that of the first."""
        for offset, raw in enumerate(messages):
            number = (self.uids[-1] + 1 if self.uids else 1) if uid is None else uid + offset
            self.modseq += 1
            self.messages[number] = StoredMessage(raw, tuple(flags.split()), self.modseq)
            insort(self.uids, number)
            if self.uidnext is not None:
                self.uidnext = max(self.uidnext, number + 1)

    def set_flags(self, uid: int, flags: str) -> None:
        """As another client would."""
        self.modseq += 1
        self.messages[uid].flags, self.messages[uid].modseq = tuple(flags.split()), self.modseq

    def expunge(self, *uids: int) -> None:
        """As another client would."""
        for uid in uids:
            self.modseq += 1
            del self.messages[uid]
            self.uids.remove(uid)
            self.removed[uid] = self.modseq

    def within(self, sequence_set: str, *, by_number: bool = False) -> list[int]:
        """The UIDs in a set of UIDs, or of sequence numbers; `*` is the last message and ranges have no direction."""
        last = len(self.uids) if by_number else (self.uids[-1] if self.uids else 0)
        found: set[int] = set()
        for part in sequence_set.split(","):
            low, high = sorted(last if end == "*" else int(end) for end in (part.split(":") * 2)[:2])
            if by_number:
                found.update(self.uids[max(low, 1) - 1 : high])
            else:
                found.update(self.uids[bisect_left(self.uids, low) : bisect_right(self.uids, high)])
        return sorted(found)


class ImapServer:
    """One user's mail for any number of connections, each in a thread. As a context manager it runs for the block."""

    host = HOST

    def __init__(self, capabilities: str = QRESYNC, user: str = "ada", password: str = "sample") -> None:
        self.capabilities = capabilities
        self.user, self.password = user, password
        self.folders: dict[bytes, ScriptedFolder] = {}
        self.greeting = b"* OK ready\r\n"
        self.login_refusal: str | None = None  # what a login is refused with, right or wrong
        self.arrange: Callable[[list[bytes]], list[bytes]] = list  # the order of the items in FETCH
        self.body_form: dict[int, str] = {}  # by UID: literal, quoted, nil or left out
        self.received: list[bytes] = []
        self.connections = 0
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
        session = _Session(self)
        connection.settimeout(0.05)
        try:
            connection.sendall(self.greeting)
            for line in self._lines(connection):
                if not self._answer(connection, session, line):
                    return
        except OSError:
            return  # the client has gone
        finally:
            connection.close()

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

    def _answer(self, connection: socket.socket, session: "_Session", line: bytes) -> bool:
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


class _Session:
    """What one connection has got to: the commands, each giving the whole of its answer."""

    def __init__(self, server: ImapServer) -> None:
        self.server = server
        self.tag = b""
        self.challenged = False
        self.asked_for: list[int] = []
        self._logged_in = False
        self._folder: ScriptedFolder | None = None

    def run(self, tag: bytes, line: bytes) -> tuple[bytes, bool]:
        """The answer, and whether the connection ends after it."""
        self.asked_for = []
        if self.challenged:
            self.challenged = False
            _, user, password = base64.b64decode(line).split(b"\0")
            return self._log_in(user, password), False
        self.tag = tag
        if len(line) > LONGEST_LINE:
            return self._done("BAD line too long"), False
        name, _, rest = line.decode("utf-8", "surrogateescape").partition(" ")
        if name.upper() == "UID":
            name, _, rest = rest.partition(" ")
            name = f"UID {name}"
        if name.upper() == "LOGOUT":
            return b"* BYE bye\r\n" + self._done("OK done"), True
        command = getattr(self, "_" + name.lower().replace(" ", "_"), None)
        if command is None:
            return self._done("BAD unknown command"), False
        if name.upper() not in {"CAPABILITY", "LOGIN", "AUTHENTICATE"} and not self._logged_in:
            return self._done("BAD log in first"), False
        return command(rest), False

    def _done(self, text: str) -> bytes:
        return self.tag + f" {text}\r\n".encode()

    def _capability(self, _: str) -> bytes:
        return f"* CAPABILITY {self.server.capabilities}\r\n".encode() + self._done("OK done")

    def _authenticate(self, _: str) -> bytes:
        self.challenged = True
        return b"+ \r\n"

    def _login(self, rest: str) -> bytes:
        words = re.findall(r'"((?:[^"\\]|\\.)*)"', rest)
        user, password = (re.sub(r"\\(.)", r"\1", word).encode("utf-8", "surrogateescape") for word in words)
        return self._log_in(user, password)

    def _log_in(self, user: bytes, password: bytes) -> bytes:
        self.server.logins += 1
        if self.server.login_refusal:
            return self._done(self.server.login_refusal)
        self._logged_in = (user.decode(), password.decode()) == (self.server.user, self.server.password)
        return self._done("OK done" if self._logged_in else "NO [AUTHENTICATIONFAILED] wrong user name or password")

    def _id(self, _: str) -> bytes:
        return b"* ID NIL\r\n" + self._done("OK done")

    def _enable(self, rest: str) -> bytes:
        return f"* ENABLED {rest}\r\n".encode() + self._done("OK done")

    def _list(self, rest: str) -> bytes:
        answer = b""
        for folder in self.server.folders.values():
            answer += f'* LIST ({folder.attributes}) "/" '.encode() + _name(folder.path) + b"\r\n"
            if "STATUS" in rest and "\\Noselect" not in folder.attributes:
                answer += self._status_line(folder)
        return answer + self._done("OK done")

    def _status(self, rest: str) -> bytes:
        folder = self._named(rest.rpartition(" (")[0])
        return self._status_line(folder) + self._done("OK done") if folder else self._done("NO no such folder")

    def _status_line(self, folder: ScriptedFolder) -> bytes:
        items = f"MESSAGES {len(folder.uids) if folder.exists is None else folder.exists}"
        items += f" UNSEEN {sum(chr(92) + 'Seen' not in m.flags for m in folder.messages.values())}"
        items += f" UIDNEXT {folder.uidnext}" if folder.uidnext is not None else ""
        items += f" UIDVALIDITY {folder.uidvalidity}" if folder.uidvalidity is not None else ""
        items += f" HIGHESTMODSEQ {folder.modseq}" if "CONDSTORE" in self.server.capabilities else ""
        return b"* STATUS " + _name(folder.path) + f" ({items})\r\n".encode()

    def _named(self, text: str) -> ScriptedFolder | None:
        quoted = re.match(r'"((?:[^"\\]|\\.)*)"', text)
        name = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else text
        return self.server.folders.get(name.encode("utf-8", "surrogateescape"))

    def _examine(self, rest: str) -> bytes:
        folder = self._folder = self._named(rest)
        if folder is None or "\\Noselect" in folder.attributes:
            return self._done("NO [NONEXISTENT] no such folder")
        lines = [f"* {len(folder.uids) if folder.exists is None else folder.exists} EXISTS", "* FLAGS ()"]
        lines += [f"* OK [UIDVALIDITY {folder.uidvalidity}] valid"] if folder.uidvalidity is not None else []
        lines += [f"* OK [UIDNEXT {folder.uidnext}] predicted"] if folder.uidnext is not None else []
        if "CONDSTORE" in self.server.capabilities:
            lines += [f"* OK [HIGHESTMODSEQ {folder.modseq}] known"]
        return "".join(f"{line}\r\n" for line in lines).encode() + self._done("OK [READ-ONLY] opened")

    def _uid_search(self, rest: str) -> bytes:
        assert self._folder is not None
        extended, rest = rest.startswith("RETURN (ALL) "), rest.removeprefix("RETURN (ALL) ")
        uids = self._folder.within(rest.removeprefix("UID "))
        if not extended:
            return b"* SEARCH" + b"".join(b" %d" % uid for uid in uids) + b"\r\n" + self._done("OK done")
        found = f" ALL {_ranges(uids)}" if uids else ""
        return f'* ESEARCH (TAG "{self.tag.decode()}") UID{found}\r\n'.encode() + self._done("OK done")

    def _fetch(self, rest: str) -> bytes:
        return self._uid_fetch(rest, by_number=True)

    def _uid_fetch(self, rest: str, *, by_number: bool = False) -> bytes:
        assert self._folder is not None
        wanted, _, items = rest.partition(" ")
        uids = self._folder.within(wanted, by_number=by_number)
        answer = b""
        if since := re.search(r"\(CHANGEDSINCE (\d+)", items):
            if "VANISHED" in items:
                low, high = (int(end) for end in wanted.split(":")) if ":" in wanted else (int(wanted),) * 2
                gone = [
                    u for u, modseq in self._folder.removed.items() if modseq > int(since[1]) and low <= u <= high
                ]
                answer += f"* VANISHED (EARLIER) {_ranges(sorted(gone))}\r\n".encode() if gone else b""
            uids = [uid for uid in uids if self._folder.messages[uid].modseq > int(since[1])]
        if "BODY.PEEK[]" in items:
            self.asked_for = uids
            self.server.bodies.update(uids)
        return answer + b"".join(self._fetched(uid, items) for uid in uids) + self._done("OK done")

    def _fetched(self, uid: int, items: str) -> bytes:
        assert self._folder is not None
        stored = self._folder.messages[uid]
        fields = [b"UID %d" % uid]
        if "FLAGS" in items:
            fields.append(f"FLAGS ({' '.join(stored.flags)})".encode())
        if "INTERNALDATE" in items:
            fields.append(f'INTERNALDATE "{stored.internaldate}"'.encode())
        if "RFC822.SIZE" in items:
            fields.append(b"RFC822.SIZE %d" % len(stored.content()))
        if "CHANGEDSINCE" in items:
            fields.append(b"MODSEQ (%d)" % stored.modseq)
        if "HEADER.FIELDS" in items:
            header = b"".join(_MESSAGE_ID.findall(stored.content().partition(b"\r\n\r\n")[0] + b"\r\n")) + b"\r\n"
            fields.append(b"BODY[HEADER.FIELDS (MESSAGE-ID)] {%d}\r\n" % len(header) + header)
        if "BODY.PEEK[]" in items and (form := self.server.body_form.get(uid, "literal")) != "left out":
            fields.append(b"BODY[] " + _body(stored.content(), form))
        number = bisect_left(self._folder.uids, uid) + 1
        return b"* %d FETCH (" % number + b" ".join(self.server.arrange(fields)) + b")\r\n"


def _body(content: bytes, form: str) -> bytes:
    if form == "nil":
        return b"NIL"
    if form == "quoted":
        return b'"' + content.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
    return b"{%d}\r\n" % len(content) + content


def _name(path: bytes) -> bytes:
    """As a literal where a quoted string cannot hold it."""
    if any(byte < 32 or byte > 126 for byte in path):
        return b"{%d}\r\n" % len(path) + path
    return b'"' + path.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


def _ranges(uids: list[int]) -> str:
    parts: list[list[int]] = []
    for uid in uids:
        if parts and uid == parts[-1][1] + 1:
            parts[-1][1] = uid
        else:
            parts.append([uid, uid])
    return ",".join(str(low) if low == high else f"{low}:{high}" for low, high in parts)
