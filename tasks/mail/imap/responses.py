"""Reads an IMAP server's answers about folders, and answers in general, into values (RFC 9051 section 7).

An answer arrives as imaplib collects it: a list of lines, where a line with a literal is a pair (text before the
literal, literal), followed by the text after it. Each line is read by itself: a line that cannot be read is skipped,
and the others count. Answers to FETCH are read in `tasks/mail/imap/fetch.py`.
"""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tasks.errors import ProtocolError
from tasks.mail.imap.folders import ListedFolder, read_path
from tasks.mail.imap.uidset import UidSet

Line = bytes | tuple[bytes, bytes] | None

_STRING = rb'"(?:[^"\\]|\\.)*"'
# The attributes, the delimiter, the name, and extended data (RFC 5258): a tag with its value in parentheses.
_LIST = re.compile(
    rb"\s*\((?P<attributes>[^)]*)\)\s*(?:(?P<delimiter>" + _STRING + rb")|NIL)\s+"
    rb"(?P<name>" + _STRING + rb"|\{\d+\+?\}|[^\s\"{].*?)"
    rb"(?:\s*\((?:" + _STRING + rb"|[a-z][a-z0-9-]*) \(.*\)\s*\)|\s*\(\))?\s*",
    re.DOTALL | re.IGNORECASE,
)
_STATUS = re.compile(
    rb"\s*(?P<name>" + _STRING + rb"|\{\d+\+?\}|[^\s\"{].*?)"
    rb"\s*\((?P<items>[^()]*(?:\([^()]*\)[^()]*)*)\)\s*",
    re.DOTALL,
)
# No folder's name is longer. Longer lines are not read, because
# the time of the patterns grows with the square of the length.
_MAX_LINE_LENGTH = 8192
_QUOTED = re.compile(rb'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_STATUS_ITEM = re.compile(rb"([A-Z]+) +(\d+)", re.IGNORECASE)
_MAILBOX_ID = re.compile(rb"\(([A-Za-z0-9_-]{1,255})\)")
_APPENDUID = re.compile(rb"\[APPENDUID (\d+) (\d+)\]", re.IGNORECASE)

HIGHEST_UID = 2**32 - 1
# The highest number that a column can hold, and the highest mod-sequence (RFC 7162 section 3.1.1).
_HIGHEST_NUMBER = 2**63 - 1


class FolderStatus(NamedTuple):
    """The answer to STATUS or SELECT (RFC 9051 section 7.3.1). What the server does not say is None."""

    messages: int
    uidvalidity: int
    uidnext: int | None
    highestmodseq: int | None
    unseen: int | None = None
    mailbox_id: str | None = None


class AppendedUid(NamedTuple):
    """The place of a message that was put into a folder (APPENDUID)."""

    uidvalidity: int
    uid: int


def read_list(lines: Iterable[Line]) -> tuple[list[ListedFolder], list[bytes]]:
    """The folders in answers to LIST (RFC 9051 section 7.3.1), and the lines that cannot be read.

    A name may come quoted, bare or as a literal. The empty name, which some servers list, is skipped.
    """
    folders: list[ListedFolder] = []
    unreadable: list[bytes] = []
    for text, literals in answers(lines):
        match = _LIST.fullmatch(text) if len(text) <= _MAX_LINE_LENGTH else None
        name = named(match["name"], literals) if match else b"\0"
        if not match or b"\0" in name:
            unreadable.append(text)
        elif name:
            delimiter = string(match["delimiter"] or b"").decode("latin-1")
            folders.append(
                ListedFolder(
                    path=read_path(name),
                    delimiter=delimiter if len(delimiter) == 1 else None,
                    attributes=frozenset(match["attributes"].decode("latin-1").lower().split()),
                )
            )
    return folders, unreadable


def read_status(lines: Iterable[Line]) -> Iterator[tuple[str, FolderStatus]]:
    """The states in answers to STATUS, each with the path of its folder. An answer that cannot be true is skipped."""
    for text, literals in answers(lines):
        match = _STATUS.fullmatch(text) if len(text) <= _MAX_LINE_LENGTH else None
        if not match:
            continue
        try:
            found = {key.upper(): read_number(value) for key, value in _STATUS_ITEM.findall(match["items"])}
        except ProtocolError:
            continue
        if b"MESSAGES" in found:
            yield (
                read_path(named(match["name"], literals)),
                FolderStatus(
                    messages=found[b"MESSAGES"],
                    uidvalidity=found.get(b"UIDVALIDITY", 0),
                    uidnext=found.get(b"UIDNEXT"),
                    highestmodseq=found.get(b"HIGHESTMODSEQ") or None,
                    unseen=found.get(b"UNSEEN"),
                ),
            )


def read_mailbox_id(lines: Iterable[Line]) -> str | None:
    """The identifier in `(F2212ea87-6097-4256-9d51-71338625)`
    (RFC 8474 section 4.1); None where there is no identifier."""
    found = (_MAILBOX_ID.fullmatch(line) for line in lines if isinstance(line, bytes))
    return next((match[1].decode() for match in found if match), None)


def read_appended_uid(lines: Iterable[Line]) -> AppendedUid | None:
    """The UID in `[APPENDUID 38505 3955] APPEND completed`.

    None where the server gives none, or impossible numbers.
    """
    for line in lines:
        if isinstance(line, bytes) and (match := _APPENDUID.search(line)):
            uidvalidity, uid = (int(number) if len(number) < 11 else 0 for number in match.groups())
            if 0 < uidvalidity <= HIGHEST_UID and 0 < uid <= HIGHEST_UID:
                return AppendedUid(uidvalidity, uid)
    return None


def read_uids(words: Iterable[bytes]) -> list[int]:
    """The numbers among `words`, each a UID."""
    return [read_number(word, HIGHEST_UID) for word in words if word.isdigit()]


def read_uid_set(sequence_set: bytes) -> UidSet:
    """The UIDs in a set such as `1:5,7`, without `*`."""
    try:
        uids = UidSet.from_imap(sequence_set.decode("ascii"))
    except ValueError:
        raise ProtocolError(f"{shown(sequence_set)} is no set of UIDs") from None
    if uids.ranges and (uids.ranges[0][0] < 1 or uids.ranges[-1][1] > HIGHEST_UID):
        raise ProtocolError(f"{shown(sequence_set)} holds what is no UID")
    return uids


def read_number(digits: bytes, highest: int = _HIGHEST_NUMBER) -> int:
    """A number. Raises ProtocolError for a number that is larger than any number of the protocol."""
    number = int(digits) if len(digits) < 20 else highest + 1
    if number > highest:
        raise ProtocolError(f"the number {shown(digits)} is too high")
    return number


def answers(lines: Iterable[Line]) -> Iterator[tuple[bytes, list[bytes]]]:
    """Each answer as its text, in which `{n}` stands for a literal, and its literals."""
    text, literals = b"", list[bytes]()
    for line in lines:
        if isinstance(line, tuple):
            text += line[0]
            literals.append(line[1])
        elif line is not None:
            yield text + line, literals
            text, literals = b"", []


def named(word: bytes, literals: list[bytes]) -> bytes:
    """A name as it is written: quoted, bare, or the first of the literals."""
    return literals[0] if literals and word.startswith(b"{") else string(word)


def string(text: bytes) -> bytes:
    """The bytes of a quoted string (RFC 9051 section 4.3), or of a bare word."""
    quoted = _QUOTED.fullmatch(text)
    return unescaped(quoted[1]) if quoted else text


def unescaped(text: bytes) -> bytes:
    """The text between the quotes, without the escaping backslashes."""
    return re.sub(rb"\\(.)", rb"\1", text, flags=re.DOTALL)


def shown(text: bytes) -> str:
    """The text of an answer for messages to people."""
    return repr(text[:80])
