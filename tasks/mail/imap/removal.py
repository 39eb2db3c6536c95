"""Moves messages of the open folder to another folder, or removes them for good.

A plain EXPUNGE is never sent, because it would also remove messages that other programs have marked \\Deleted.
Without MOVE (RFC 6851) and UIDPLUS (RFC 4315), messages can only be copied and marked.
"""

from typing import NamedTuple

from tasks.mail.imap.commands import ImapConnection
from tasks.mail.imap.folders import wire_path
from tasks.mail.imap.responses import HIGHEST_UID
from tasks.mail.imap.uidset import UidSet

# Servers have to take lines of 8,192 bytes (RFC 7162 section 4). A line holds these UIDs and the name of a folder.
_MAX_UID_SET_LENGTH = 6_000
_MAX_DIGITS = 10


class Moved(NamedTuple):
    """New UIDs by old UIDs, as far as the server tells them, and the UIDVALIDITY of the messages' new folder."""

    uidvalidity: int | None
    uids: dict[int, int]


def can_move(imap: ImapConnection) -> bool:
    """Whether the server can move messages in one step; if not, they are copied and removed."""
    return "MOVE" in imap.capabilities


def can_remove(imap: ImapConnection) -> bool:
    """Whether the server can remove given messages without removing other marked messages."""
    return "UIDPLUS" in imap.capabilities


def keeps_what_is_removed(imap: ImapConnection) -> bool:
    """Whether removing works only in Trash: Gmail archives messages that are removed elsewhere."""
    return "X-GM-EXT-1" in imap.capabilities


def move(imap: ImapConnection, uids: UidSet, path: str) -> Moved:
    """Move messages to another folder. Messages that are gone are left out silently."""
    return _transfer(imap, "MOVE", uids, path)


def copy(imap: ImapConnection, uids: UidSet, path: str) -> Moved:
    """Copy messages to another folder."""
    return _transfer(imap, "COPY", uids, path)


def mark_deleted(imap: ImapConnection, uids: UidSet) -> None:
    """Set \\Deleted. Without `remove` the messages stay until a client of their owner expunges."""
    for part in imap.parts(uids, _MAX_UID_SET_LENGTH):
        imap.ask("marking messages as deleted", "UID", "STORE", part, "+FLAGS.SILENT", r"(\Deleted)")


def remove(imap: ImapConnection, uids: UidSet) -> None:
    """Remove those of these messages for good that are marked as deleted (UID EXPUNGE)."""
    for part in imap.parts(uids, _MAX_UID_SET_LENGTH):
        imap.ask("removing messages", "UID", "EXPUNGE", part)


def read_copied_uids(lines: list[bytes], asked_for: UidSet) -> Moved:
    """New UIDs from `38505 304,319:320 3956:3958`, whose two sets are paired in order.

    Lines that cannot be true are ignored.
    """
    asked = set(asked_for.uids())
    pairs: dict[int, int] = {}
    validities: set[int] = set()
    for line in lines:
        words = line.decode("latin-1").split()
        try:
            uidvalidity, old, new = (
                _number(words[0]),
                _in_order(words[1], len(asked)),
                _in_order(words[2], len(asked)),
            )
        except (ValueError, IndexError):
            continue
        if len(old) == len(new) == len(set(new)) and asked.issuperset(old):
            validities.add(uidvalidity)
            pairs.update(zip(old, new, strict=True))
    # All messages must be in the same folder, each under a UID of its own.
    is_possible = len(validities) == 1 and len(set(pairs.values())) == len(pairs)
    return Moved(validities.pop(), pairs) if is_possible else Moved(None, {})


def _transfer(imap: ImapConnection, command: str, uids: UidSet, path: str) -> Moved:
    lines: list[bytes] = []
    # A server with a limit does other commands in part, but refuses a COPY of more messages (RFC 9738 section 3.1).
    for some in uids.split(imap.message_limit or uids.size()):
        for part in imap.parts(some, _MAX_UID_SET_LENGTH):
            imap.ask(f"moving messages to {path}", "UID", command, part, wire_path(path))
            lines += imap.copied_uids()
    return read_copied_uids(lines, uids)


def _number(digits: str) -> int:
    number = int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= _MAX_DIGITS else 0
    if not 0 < number <= HIGHEST_UID:
        raise ValueError(digits[:80])
    return number


def _in_order(sequence_set: str, most: int) -> list[int]:
    """The numbers of a set in the order written.

    Raises ValueError for more than `most`, the number of messages asked about.
    """
    numbers: list[int] = []
    for part in sequence_set.split(","):
        first, _, last = part.partition(":")
        low, high = sorted((_number(first), _number(last or first)))
        if high - low >= most - len(numbers):
            raise ValueError(sequence_set[:80])
        numbers.extend(range(low, high + 1))
    return numbers
