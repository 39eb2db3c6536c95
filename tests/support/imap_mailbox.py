"""The mail that the scripted IMAP server keeps in memory."""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable
from dataclasses import dataclass, field

HIGHEST_UID = 2**32 - 1


@dataclass
class StoredMessage:
    """A message on the server. `raw` may be made when it is asked for, so that many take no memory."""

    raw: bytes | Callable[[], bytes]
    flags: tuple[str, ...] = ()
    modseq: int = 1
    internaldate: str = "02-Mar-2026 10:00:00 +0000"
    labels: str = ""  # X-GM-LABELS, as Gmail writes them
    thread: int = 0  # X-GM-THRID

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
    window: int | None = None  # of its newest messages, so many are shown, and no others
    answers_beyond: bool = False  # UID FETCH gives messages outside of the window, too
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

    def set_labels(self, uid: int, labels: str) -> None:
        """As a person would in Gmail."""
        self.modseq += 1
        self.messages[uid].labels, self.messages[uid].modseq = labels, self.modseq

    def expunge(self, *uids: int) -> None:
        """As another client would."""
        for uid in uids:
            self.modseq += 1
            del self.messages[uid]
            self.uids.remove(uid)
            self.removed[uid] = self.modseq

    @property
    def shown(self) -> list[int]:
        """The UIDs of the messages that there are as far as clients can see."""
        return self.uids if self.window is None else self.uids[-self.window :]

    def within(self, sequence_set: str, *, by_number: bool = False, beyond: bool = False) -> list[int]:
        """The UIDs in a set of UIDs, or of sequence numbers; `*` is the last message and ranges have no direction."""
        uids = self.uids if beyond else self.shown
        last = len(uids) if by_number else (uids[-1] if uids else 0)
        found: set[int] = set()
        for part in sequence_set.split(","):
            low, high = sorted(last if end == "*" else int(end) for end in (part.split(":") * 2)[:2])
            if by_number:
                found.update(uids[max(low, 1) - 1 : high])
            else:
                found.update(uids[bisect_left(uids, low) : bisect_right(uids, high)])
        return sorted(found)
