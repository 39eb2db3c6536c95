"""The commands of the scripted IMAP server (RFC 3501, RFC 4731, RFC 5819, RFC 7162), for one connection."""

import base64
import re
from bisect import bisect_left
from typing import TYPE_CHECKING

from tests.support.imap_changes import Changes
from tests.support.imap_mailbox import ScriptedFolder

if TYPE_CHECKING:
    from tests.support.imap_server import ImapServer

# What every server has to take (RFC 7162 section 4); this one takes no more.
MAX_LINE_LENGTH = 8192

_MESSAGE_ID = re.compile(rb"^Message-ID:.*\r\n(?:[ \t].*\r\n)*", re.IGNORECASE | re.MULTILINE)


class Session(Changes):
    """What one connection has got to: the commands, each giving the whole of its answer."""

    def __init__(self, server: "ImapServer") -> None:
        self.server = server
        self.tag = b""
        self.challenged = False
        self.asked_for: list[int] = []
        self._mechanism = ""
        self._told_why = False
        self._token: str | None = None
        self._logged_in = False
        self._folder: ScriptedFolder | None = None
        self.is_idle = False

    @property
    def expects_more(self) -> bool:
        """Whether the next line belongs to the command before."""
        return self.challenged or self.is_idle or self._appending is not None

    def run(self, tag: bytes, line: bytes) -> tuple[bytes, bool]:
        """The answer, and whether the connection ends after it."""
        self.asked_for = []
        if self.is_idle:
            self.is_idle = False
            return self._done("OK done" if line.upper() == b"DONE" else "BAD not DONE"), False
        if self._appending:
            return self._take_literal(line), False
        if self.challenged:
            return self._continue(base64.b64decode(line)), False
        self.tag = tag
        if len(line) > MAX_LINE_LENGTH:
            return self._done("BAD line too long"), False
        name, _, rest = line.decode("utf-8", "surrogateescape").partition(" ")
        if name.upper() == "UID":
            name, _, rest = rest.partition(" ")
            name = f"UID {name}"
        if name.upper() == "LOGOUT":
            return b"* BYE bye\r\n" + self._done("OK done"), True
        if self._token is not None and self._token not in self.server.tokens:
            return b"* BYE Session expired, please login again.\r\n", True
        command = getattr(self, "_" + name.lower().replace(" ", "_"), None)
        if command is None:
            return self._done("BAD unknown command"), False
        if name.upper() not in {"CAPABILITY", "LOGIN", "AUTHENTICATE"} and not self._logged_in:
            return self._done("BAD log in first"), False
        return command(rest), False

    def _done(self, text: str) -> bytes:
        return self.tag + f" {text}\r\n".encode()

    def _limited(self, uids: list[int]) -> tuple[list[int], bytes]:
        """Those that one command works on, and how it ends."""
        limit = self.server.message_limit
        if limit is None or len(uids) <= limit:
            return uids, self._done("OK done")
        uids = uids[-limit:]
        code = f"[MESSAGELIMIT {limit} {uids[0]}] the rest is for another command"
        if self.server.tells_limit == "tagged":
            return uids, self._done(f"OK {code}")
        told = f"* NO {code}\r\n".encode() if self.server.tells_limit == "untagged" else b""
        return uids, told + self._done("OK done")

    def _capability(self, _: str) -> bytes:
        return f"* CAPABILITY {self.server.capabilities}\r\n".encode() + self._done("OK done")

    def _authenticate(self, mechanism: str) -> bytes:
        self.challenged, self._mechanism = True, mechanism.upper()
        return b"+ \r\n"

    def _continue(self, response: bytes) -> bytes:
        if self._mechanism == "PLAIN":
            self.challenged = False
            _, user, password = response.split(b"\0")
            return self._log_in(user, password)
        if self._told_why:
            self.challenged = self._told_why = False
            assert response == (b"\1" if self._mechanism == "OAUTHBEARER" else b""), response
            return self._done("NO [AUTHENTICATIONFAILED] Invalid credentials (Failure)")
        return self._log_in_by_token(response)

    def _log_in_by_token(self, response: bytes) -> bytes:
        """XOAUTH2 and OAUTHBEARER (RFC 7628): what is wrong is said in a challenge, and then NO."""
        self.server.logins += 1
        found = re.fullmatch(rb"(?:user=|n,a=)([^\x01,]*).*\x01auth=Bearer ([^\x01]*)\x01\x01", response, re.DOTALL)
        assert found, response
        self._token = found[2].decode()
        if found[1].decode() == self.server.user and self._token in self.server.tokens:
            self._logged_in, self.challenged = True, False
            return self._done("OK done")
        self._told_why = True
        return b"+ " + base64.b64encode(b'{"status":"400","schemes":"Bearer"}') + b"\r\n"

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

    def _idle(self, _: str) -> bytes:
        self.is_idle = True
        return b"+ idling\r\n"

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
        items = f"MESSAGES {len(folder.shown) if folder.exists is None else folder.exists}"
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
        lines = [f"* {len(folder.shown) if folder.exists is None else folder.exists} EXISTS", "* FLAGS ()"]
        lines += [f"* OK [UIDVALIDITY {folder.uidvalidity}] valid"] if folder.uidvalidity is not None else []
        lines += [f"* OK [UIDNEXT {folder.uidnext}] predicted"] if folder.uidnext is not None else []
        if "CONDSTORE" in self.server.capabilities:
            lines += [f"* OK [HIGHESTMODSEQ {folder.modseq}] known"]
        return "".join(f"{line}\r\n" for line in lines).encode() + self._done("OK [READ-ONLY] opened")

    def _uid_search(self, rest: str) -> bytes:
        assert self._folder is not None
        extended, rest = rest.startswith("RETURN (ALL) "), rest.removeprefix("RETURN (ALL) ")
        if sought := re.search(r'HEADER Message-ID "(.*)"', rest):
            wanted = f"Message-ID: {sought[1]}".encode()
            found_uids = [uid for uid in self._folder.uids if wanted in self._folder.messages[uid].content()]
        else:
            found_uids = self._folder.within(rest.removeprefix("UID "))
        uids, done = self._limited(found_uids)
        if not extended:
            return b"* SEARCH" + b"".join(b" %d" % uid for uid in uids) + b"\r\n" + done
        found = f" ALL {_ranges(uids)}" if uids else ""
        return f'* ESEARCH (TAG "{self.tag.decode()}") UID{found}\r\n'.encode() + done

    def _fetch(self, rest: str) -> bytes:
        return self._uid_fetch(rest, by_number=True)

    def _uid_fetch(self, rest: str, *, by_number: bool = False) -> bytes:
        assert self._folder is not None
        wanted, _, items = rest.partition(" ")
        beyond = self._folder.answers_beyond and not by_number
        uids, done = self._limited(self._folder.within(wanted, by_number=by_number, beyond=beyond))
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
        return answer + b"".join(self._fetched(uid, items) for uid in uids) + done

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
        if "X-GM-LABELS" in items:
            fields.append(f"X-GM-LABELS ({stored.labels})".encode())
        if "X-GM-THRID" in items:
            fields.append(b"X-GM-THRID %d" % stored.thread)
        if "CHANGEDSINCE" in items:
            fields.append(b"MODSEQ (%d)" % stored.modseq)
        if "HEADER.FIELDS" in items:
            header = b"".join(_MESSAGE_ID.findall(stored.content().partition(b"\r\n\r\n")[0] + b"\r\n")) + b"\r\n"
            fields.append(b"BODY[HEADER.FIELDS (MESSAGE-ID)] {%d}\r\n" % len(header) + header)
        if "BODY.PEEK[]" in items and (form := self.server.body_form.get(uid, "literal")) != "left out":
            fields.append(b"BODY[] " + _body(stored.content(), form))
        number = bisect_left(self._folder.shown, uid) + 1
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
