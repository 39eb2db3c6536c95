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
from tasks.mail.folders import ListedFolder

Line = bytes | tuple[bytes, bytes] | None

_LIST = re.compile(rb'\((?P<attributes>[^)]*)\) (?:"(?P<delimiter>\\?.)"|NIL) (?P<name>.*)', re.DOTALL)
_QUOTED = re.compile(rb'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_STATUS_ITEM = re.compile(rb"([A-Z]+) (\d+)")
_UID = re.compile(rb"\bUID (\d+)")
_FLAGS = re.compile(rb"\bFLAGS \(([^)]*)\)")
_SIZE = re.compile(rb"\bRFC822\.SIZE (\d+)")
_INTERNALDATE = re.compile(
    rb'\bINTERNALDATE "([ \d]\d)-([A-Za-z]{3})-(\d{4}) (\d\d):(\d\d):(\d\d) ([+-])(\d\d)(\d\d)"'
)
_BODY_QUOTED = re.compile(rb'\bBODY\[[^]]*\] (?:NIL|"((?:[^"\\]|\\.)*)")', re.IGNORECASE)
_AFTER_LITERAL = re.compile(rb"(?: [A-Z][A-Z0-9.\[\]]* .*)?\)\Z", re.DOTALL)
_MONTHS = {
    month.encode(): number
    for number, month in enumerate(
        ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"), start=1
    )
}


class FolderStatus(NamedTuple):
    """The answer to STATUS or SELECT (RFC 9051 section 7.3.1). What the server does not say is None."""

    messages: int
    uidvalidity: int
    uidnext: int | None
    highestmodseq: int | None
    unseen: int | None = None


class FetchedFlags(NamedTuple):
    """The flags of a message, as the server writes them."""

    uid: int
    flags: tuple[str, ...]


class FetchedMessage(NamedTuple):
    """One message from the wire. `received_at` is INTERNALDATE, None where unreadable."""

    uid: int
    flags: tuple[str, ...]
    received_at: datetime | None
    raw: bytes


class FetchedEnvelope(NamedTuple):
    """What identifies a message without its body. `header` is its Message-ID field, raw."""

    uid: int
    flags: tuple[str, ...]
    received_at: datetime | None
    size: int
    header: bytes


def read_list(lines: Iterable[Line]) -> Iterator[ListedFolder]:
    """Answers to LIST (RFC 9051 section 7.3.1); a name may come quoted, bare or as a literal."""
    for text, literal in _joined(lines):
        match = _LIST.match(text)
        if not match:
            raise ProtocolError(f"LIST answered {_shown(text)}")
        delimiter = match["delimiter"]
        name = literal if literal is not None else _string(match["name"])
        yield ListedFolder(
            path=name.decode("utf-8", "replace"),
            delimiter=delimiter.decode("latin-1").removeprefix("\\") or None if delimiter else None,
            attributes=frozenset(match["attributes"].decode("latin-1").lower().split()),
        )


def read_status(lines: Iterable[Line]) -> Iterator[tuple[str, FolderStatus]]:
    """Answers to STATUS, each with the path of its folder."""
    for text, literal in _joined(lines):
        head, _, items = text.rpartition(b"(")
        name = literal if literal is not None else _string(head.strip())
        found = {key: int(value) for key, value in _STATUS_ITEM.findall(items)}
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
    for text, _ in _joined(lines):
        uid, size = _UID.search(text), _SIZE.search(text)
        if uid and size:
            sizes[int(uid[1])] = int(size[1])
    return sizes


def read_flags(lines: Iterable[Line]) -> Iterator[FetchedFlags]:
    """FLAGS by UID."""
    for text, _ in _joined(lines):
        uid, flags = _UID.search(text), _FLAGS.search(text)
        if uid and flags:
            yield FetchedFlags(int(uid[1]), _split_flags(flags[1]))


def read_messages(lines: Iterable[Line]) -> Iterator[FetchedMessage]:
    """UID FLAGS INTERNALDATE BODY[], in whatever order the server writes them."""
    for text, literal in _joined(lines):
        uid = _UID.search(text)
        raw = literal if literal is not None else _quoted_body(text)
        if uid and raw is not None:
            flags = _FLAGS.search(text)
            yield FetchedMessage(
                uid=int(uid[1]),
                flags=_split_flags(flags[1]) if flags else (),
                received_at=read_internaldate(text),
                raw=raw,
            )


def read_envelopes(lines: Iterable[Line]) -> Iterator[FetchedEnvelope]:
    """UID FLAGS INTERNALDATE RFC822.SIZE BODY[HEADER.FIELDS (MESSAGE-ID)]."""
    for text, literal in _joined(lines):
        uid, size, flags = _UID.search(text), _SIZE.search(text), _FLAGS.search(text)
        if uid and size:
            yield FetchedEnvelope(
                uid=int(uid[1]),
                flags=_split_flags(flags[1]) if flags else (),
                received_at=read_internaldate(text),
                size=int(size[1]),
                header=literal if literal is not None else _quoted_body(text) or b"",
            )


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


@lru_cache(maxsize=1024)
def _split_flags(flags: bytes) -> tuple[str, ...]:
    return tuple(flags.decode("utf-8", "replace").split())


def _joined(lines: Iterable[Line]) -> Iterator[tuple[bytes, bytes | None]]:
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
            if line and not _AFTER_LITERAL.match(line) and not line.startswith(b" ("):
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
