"""What an IMAP server answers, read into values (RFC 9051 section 7). Pure: no connection here.

An answer arrives as imaplib collects it: a list of lines, where a line with a literal is a pair (text before the
literal, literal), followed by the text after it.
"""

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache
from typing import NamedTuple

from tasks.errors import ProtocolError
from tasks.mail.folders import ListedFolder, decode_name
from tasks.mail.message import FetchedMessage
from tasks.mail.uidset import UidSet

Line = bytes | tuple[bytes, bytes] | None

_LIST = re.compile(rb'\((?P<attributes>[^)]*)\) (?:"(?P<delimiter>\\?.)"|NIL) (?P<name>.*)', re.DOTALL)
_QUOTED = re.compile(rb'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_LABEL = re.compile(rb'"(?:[^"\\]|\\.)*"|[^\s"]+', re.DOTALL)
_STATUS_ITEM = re.compile(rb"([A-Z]+) (\d+)")
_APPENDUID = re.compile(rb"\[APPENDUID (\d+) (\d+)\]", re.IGNORECASE)
_UID = re.compile(rb"\bUID (\d+)")
_FLAGS = re.compile(rb"\bFLAGS \(([^)]*)\)")
_GMAIL_LABELS = re.compile(rb"\bX-GM-LABELS \(([^)]*)\)")
_GMAIL_THREAD = re.compile(rb"\bX-GM-THRID (\d+)")
_SIZE = re.compile(rb"\bRFC822\.SIZE (\d+)")
_INTERNALDATE = re.compile(
    rb'\bINTERNALDATE "([ \d]\d)-([A-Za-z]{3})-(\d{4}) (\d\d):(\d\d):(\d\d) ([+-])(\d\d)(\d\d)"'
)
_BODY_QUOTED = re.compile(rb'\bBODY\[[^]]*\] (?:NIL|"((?:[^"\\]|\\.)*)")', re.IGNORECASE)
# What may follow a literal: in FETCH more items and the closing parenthesis, in LIST nothing or extended data.
_ANNOUNCED = re.compile(rb"\{(\d+)\+?\}")
_AFTER_LITERAL = re.compile(rb"(?: [A-Z][A-Z0-9.\[\]]* .*)?\)\Z", re.DOTALL)
_AFTER_NAME = re.compile(rb"(?: \(.*\))?\Z", re.DOTALL)
_MONTHS = {
    month.encode(): number
    for number, month in enumerate(
        ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"), start=1
    )
}


_HIGHEST_UID = 2**32 - 1
# What a column holds; mod-sequences end there too (RFC 7162 section 3.1.1).
_HIGHEST_NUMBER = 2**63 - 1


class FolderStatus(NamedTuple):
    """The answer to STATUS or SELECT (RFC 9051 section 7.3.1). What the server does not say is None."""

    messages: int
    uidvalidity: int
    uidnext: int | None
    highestmodseq: int | None
    unseen: int | None = None


class AppendedUid(NamedTuple):
    """Where a message is that was put into a folder."""

    uidvalidity: int
    uid: int


class FetchedFlags(NamedTuple):
    """The flags of a message, as the server writes them; on Gmail with its labels."""

    uid: int
    flags: tuple[str, ...]


class FetchedEnvelope(NamedTuple):
    """What identifies a message without its body. `header` is its Message-ID field, raw."""

    uid: int
    flags: tuple[str, ...]
    received_at: datetime | None
    size: int
    header: bytes


def read_list(lines: Iterable[Line]) -> Iterator[ListedFolder]:
    """Answers to LIST (RFC 9051 section 7.3.1); a name may come quoted, bare or as a literal."""
    for text, literal in _joined(lines, _AFTER_NAME):
        match = _LIST.match(text)
        if not match:
            raise ProtocolError(f"LIST answered {_shown(text)}")
        delimiter = match["delimiter"]
        name = literal if literal is not None else _string(match["name"])
        if b"\0" in name:
            raise ProtocolError(f"LIST named a folder with NUL: {_shown(name)}")
        yield ListedFolder(
            path=name.decode("utf-8", "replace"),
            delimiter=delimiter.decode("latin-1").removeprefix("\\") or None if delimiter else None,
            attributes=frozenset(match["attributes"].decode("latin-1").lower().split()),
        )


def read_status(lines: Iterable[Line]) -> Iterator[tuple[str, FolderStatus]]:
    """Answers to STATUS, each with the path of its folder."""
    for text, literal in _joined(lines, _AFTER_NAME):
        head, _, items = text.rpartition(b"(")
        name = literal if literal is not None else _string(head.strip())
        found = {key: read_number(value) for key, value in _STATUS_ITEM.findall(items)}
        if b"MESSAGES" in found:
            yield (
                name.decode("utf-8", "replace"),
                FolderStatus(
                    messages=found[b"MESSAGES"],
                    uidvalidity=found.get(b"UIDVALIDITY", 0),
                    uidnext=found.get(b"UIDNEXT"),
                    highestmodseq=found.get(b"HIGHESTMODSEQ") or None,
                    unseen=found.get(b"UNSEEN"),
                ),
            )


def read_sizes(lines: Iterable[Line]) -> dict[int, int]:
    """RFC822.SIZE by UID; an answer without both is of another command and is passed over."""
    sizes = {}
    for text, _ in _joined(lines, _AFTER_LITERAL):
        uid, _, items = _identified(text)
        if uid and (size := _SIZE.search(items)):
            sizes[uid] = read_number(size[1])
    return sizes


def read_flags(lines: Iterable[Line]) -> Iterator[FetchedFlags]:
    """FLAGS by UID."""
    for text, _ in _joined(lines, _AFTER_LITERAL):
        uid, flags, _ = _identified(text)
        if uid and flags is not None:
            yield FetchedFlags(uid, flags)


def read_messages(lines: Iterable[Line]) -> Iterator[FetchedMessage]:
    """UID RFC822.SIZE FLAGS INTERNALDATE BODY[], in whatever order the server writes them."""
    for text, literal in _joined(lines, _AFTER_LITERAL):
        uid, flags, items = _identified(text)
        raw = literal if literal is not None else _quoted_body(text)
        if uid and raw is not None:
            announced = _ANNOUNCED.search(items) if literal == b"" else None
            skipped = read_number(announced[1]) if announced else 0
            size = _SIZE.search(items)
            yield FetchedMessage(
                uid=uid,
                flags=flags or (),
                received_at=read_internaldate(text),
                size=read_number(size[1]) if size else skipped or len(raw),
                raw=None if skipped else raw,
                thread_id=_gmail_thread(items),
            )


def read_envelopes(lines: Iterable[Line]) -> Iterator[FetchedEnvelope]:
    """UID FLAGS INTERNALDATE RFC822.SIZE BODY[HEADER.FIELDS (MESSAGE-ID)]."""
    for text, literal in _joined(lines, _AFTER_LITERAL):
        uid, flags, items = _identified(text)
        if uid and (size := _SIZE.search(items)):
            yield FetchedEnvelope(
                uid=uid,
                flags=flags or (),
                received_at=read_internaldate(text),
                size=read_number(size[1]),
                header=literal if literal is not None else _quoted_body(text) or b"",
            )


def read_appended_uid(lines: Iterable[Line]) -> AppendedUid | None:
    """`[APPENDUID 38505 3955] APPEND completed`, where the server says so."""
    for line in lines:
        if isinstance(line, bytes) and (match := _APPENDUID.search(line)):
            return AppendedUid(read_number(match[1]), read_number(match[2], _HIGHEST_UID))
    return None


def read_only_uids(lines: Iterable[Line]) -> Iterator[int]:
    """The UID of each answer that has one."""
    for text, _ in _joined(lines, _AFTER_LITERAL):
        if uid := _identified(text)[0]:
            yield uid


def read_uids(words: Iterable[bytes]) -> list[int]:
    """The numbers among `words`, each a UID."""
    return [read_number(word, _HIGHEST_UID) for word in words if word.isdigit()]


def read_uid_set(sequence_set: bytes) -> UidSet:
    """`1:5,7`, without `*`."""
    try:
        uids = UidSet.from_imap(sequence_set.decode("ascii"))
    except ValueError:
        raise ProtocolError(f"{_shown(sequence_set)} is no set of UIDs") from None
    if uids.ranges and (uids.ranges[0][0] < 1 or uids.ranges[-1][1] > _HIGHEST_UID):
        raise ProtocolError(f"{_shown(sequence_set)} holds what is no UID")
    return uids


def read_number(digits: bytes, highest: int = _HIGHEST_NUMBER) -> int:
    """Raises ProtocolError for a number that none of the protocol's can be."""
    number = int(digits) if len(digits) < 20 else highest + 1
    if number > highest:
        raise ProtocolError(f"the number {_shown(digits)} is too high")
    return number


def read_internaldate(text: bytes) -> datetime | None:
    """INTERNALDATE in UTC, or None where it is missing or impossible."""
    match = _INTERNALDATE.search(text)
    if not match:
        return None
    day, month, year, hour, minute, second, sign, zone_hours, zone_minutes = match.groups()
    try:
        return datetime(
            int(year), _MONTHS[month.lower()], int(day), int(hour), int(minute), int(second),
            tzinfo=_zone(sign, zone_hours, zone_minutes),
        ).astimezone(UTC)  # fmt: skip
    except (KeyError, ValueError, OverflowError):
        return None


@lru_cache(maxsize=256)
def _zone(sign: bytes, hours: bytes, minutes: bytes) -> timezone:
    offset = timedelta(hours=int(hours), minutes=int(minutes))
    return timezone(-offset if sign == b"-" else offset)


# Few: a server can make each as long as it likes.
@lru_cache(maxsize=64)
def _split_flags(flags: bytes) -> tuple[str, ...]:
    return tuple(flags.decode("utf-8", "replace").split())


def _identified(text: bytes) -> tuple[int | None, tuple[str, ...] | None, bytes]:
    """The UID, the flags with Gmail's labels, and the other items of an answer to FETCH.

    A word counts as an item only where it is one: a body in quotes or a keyword may well read `UID 7`.
    """
    items = _QUOTED.sub(b'""', text) if b'"' in text else text
    labels = _gmail_labels(text) if b"X-GM-LABELS" in items else ()
    flags = _FLAGS.search(items)
    if flags:
        items = items[: flags.start()] + items[flags.end() :]
    uid = _UID.search(items)
    return (
        read_number(uid[1], _HIGHEST_UID) if uid else None,
        (*_split_flags(flags[1]), *labels) if flags else None,
        items,
    )


def _gmail_labels(text: bytes) -> tuple[str, ...]:
    """X-GM-LABELS as they are read by people; Gmail's own begin with a backslash, as flags do."""
    # Quoted text is blotted out without moving what follows: a label may well hold a parenthesis.
    blotted = _QUOTED.sub(lambda quoted: b'"' + b"_" * (len(quoted[0]) - 2) + b'"', text)
    found = _GMAIL_LABELS.search(blotted)
    if not found:
        return ()
    words = _LABEL.findall(text[found.start(1) : found.end(1)])
    return tuple(decode_name(_string(word).decode("utf-8", "replace")) for word in words)


def _gmail_thread(items: bytes) -> str | None:
    found = _GMAIL_THREAD.search(items)
    return f"gmail-{found[1].decode()}" if found else None


def _joined(lines: Iterable[Line], after_literal: re.Pattern[bytes]) -> Iterator[tuple[bytes, bytes | None]]:
    """Each answer as (its text without the literal, its literal).

    Raises ProtocolError where the text after a literal does not end the answer: then the server gave a wrong
    length, and nothing it says can be trusted.
    """
    pending: tuple[bytes, bytes] | None = None
    for line in lines:
        if line is None:
            continue
        if isinstance(line, tuple):
            if pending:
                raise ProtocolError(f"after a literal came {_shown(line[0])}; its length was wrong")
            pending = line
        elif pending:
            before, literal = pending
            pending = None
            if not after_literal.match(line):
                raise ProtocolError(f"after a literal came {_shown(line)}; its length was wrong")
            yield before + line, literal
        else:
            yield line, None


def _quoted_body(text: bytes) -> bytes | None:
    match = _BODY_QUOTED.search(text)
    return _unescaped(match[1]) if match and match[1] is not None else None


def _string(text: bytes) -> bytes:
    quoted = _QUOTED.fullmatch(text)
    return _unescaped(quoted[1]) if quoted else text


def _unescaped(text: bytes) -> bytes:
    return re.sub(rb"\\(.)", rb"\1", text)


def _shown(text: bytes) -> str:
    return repr(text[:80])
