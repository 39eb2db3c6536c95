"""Reads answers to FETCH into values (RFC 9051 section 7.5.2). Needs no connection.

Items come in any order and any case, and the items of one message may come in several lines.
"""

import logging
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache
from typing import NamedTuple

from tasks.errors import ProtocolError
from tasks.mail.imap.folders import decode_name
from tasks.mail.imap.responses import HIGHEST_UID, Line, read_number, shown, string, unescaped
from tasks.mail.message import FetchedMessage

logger = logging.getLogger(__name__)

_QUOTED = re.compile(rb'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_LABEL = re.compile(rb'"(?:[^"\\]|\\.)*"|[^\s"]+', re.DOTALL)


class _Item:
    """A pattern that matches in any case (RFC 9051 section 9), fastest in capitals, which is the usual case."""

    def __init__(self, pattern: bytes) -> None:
        self._usual, self._any_case = re.compile(pattern), re.compile(pattern, re.IGNORECASE)

    def search(self, text: bytes) -> re.Match[bytes] | None:
        return self._usual.search(text) or self._any_case.search(text)


_UID = _Item(rb"\bUID +(\d+)")
_FLAGS = _Item(rb"\bFLAGS *\(([^)]*)\)")
_SIZE = _Item(rb"\bRFC822\.SIZE +(\d+)")
_INTERNALDATE = _Item(
    rb'\bINTERNALDATE +" *(\d?\d)-([A-Za-z]{3})-(\d{4}) +(\d?\d):(\d\d):(\d\d) +([+-])(\d\d):?(\d\d) *"'
)
_GMAIL_LABELS = re.compile(rb"\bX-GM-LABELS \(([^)]*)\)")
_GMAIL_THREAD = re.compile(rb"\bX-GM-THRID (\d+)")
_BODY_QUOTED = re.compile(rb'\bBODY\[[^]]*\] +(?:NIL|"((?:[^"\\]|\\.)*)")', re.IGNORECASE | re.DOTALL)
_NUMBER = re.compile(rb" *(\d+)")
_ANNOUNCED = re.compile(rb"\{(\d+)\+?\}")
# What may follow a literal: more items and the closing
# parenthesis. Some servers write blanks or an empty line before.
_AFTER_LITERAL = re.compile(
    rb"(?:\s+(?:[A-Z][A-Z0-9.\[\]-]*|(?i:uid|flags|internaldate|rfc822\.size|modseq|x-gm-\w+)) .*)?\s*\)\s*",
    re.DOTALL,
)
# For how many messages flags are kept that came before the message, and how many messages wait for their flags.
_MAX_EARLY = 10_000
_MAX_HELD = 100
_MONTHS = {
    month.encode(): number
    for number, month in enumerate(
        ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"), start=1
    )
}


class FetchedFlags(NamedTuple):
    """The flags of a message as the server writes them; on Gmail also its labels."""

    uid: int
    flags: tuple[str, ...]


class FetchedEnvelope(NamedTuple):
    """What identifies a message without its body. `header` is its Message-ID field, raw.

    `flags` are None where the server leaves them out.
    """

    uid: int
    flags: tuple[str, ...] | None
    received_at: datetime | None
    size: int
    header: bytes


def read_sizes(lines: Iterable[Line]) -> dict[int, int]:
    """RFC822.SIZE by UID. An answer without both belongs to another command and is skipped."""
    sizes = {}
    for text, _, _ in _joined(lines):
        uid, _, items = _identified(text)
        if uid and (size := _SIZE.search(items)):
            sizes[uid] = read_number(size[1])
    return sizes


def read_flag_answers(lines: Iterable[Line]) -> Iterator[FetchedFlags]:
    """The flags in each answer that has a UID."""
    for text, _, _ in _joined(lines):
        uid, flags, _ = _identified(text)
        if uid and flags is not None:
            yield FetchedFlags(uid, flags)


def are_flags_of_known(lines: Iterable[Line]) -> bool:
    """Whether each answer has flags and a UID."""
    answers = (_identified(text) for text, _, _ in _joined(lines))
    return all(uid and flags is not None for uid, flags, _ in answers)


class Assembly:
    """Messages from answers with UID, RFC822.SIZE, FLAGS, INTERNALDATE and BODY[], in any order.

    The flags of a message may come in a line of their own, before or after the message.

    Each command needs an Assembly of its own, because lines without a UID are matched by message number.
    """

    def __init__(self) -> None:
        self._early: dict[int | bytes, tuple[str, ...]] = {}
        self._held: dict[int, FetchedMessage] = {}
        self._numbers: dict[bytes, int] = {}

    def take(self, lines: Iterable[Line]) -> Iterator[FetchedMessage]:
        """Read more lines, and yield the messages that are complete with them."""
        for text, literal, blank in _joined(lines):
            uid, flags, items = _identified(text)
            raw = literal if literal is not None else _quoted_body(text)
            if raw is not None and uid:
                message = _message(uid, flags or (), text, items, raw, blank, is_literal=literal is not None)
                if flags is not None:
                    yield message
                else:
                    yield from self._match(message, text)
            elif flags is not None:
                yield from self._add_flags(uid, flags, text)

    def held(self) -> list[FetchedMessage]:
        """The messages whose flags have not arrived."""
        return list(self._held.values())

    def forget_numbers(self) -> None:
        """Forget message numbers, because messages were removed and other messages have their numbers now."""
        self._numbers.clear()
        self._early = {key: flags for key, flags in self._early.items() if isinstance(key, int)}

    def _match(self, message: FetchedMessage, text: bytes) -> Iterator[FetchedMessage]:
        number = _number_of(text)
        for key in (message.uid, number):
            if key in self._early:
                yield message._replace(flags=self._early.pop(key))
                return
        self._numbers[number] = message.uid
        self._held[message.uid] = message
        if len(self._held) > _MAX_HELD:
            first = next(iter(self._held))
            logger.warning("the server gives messages long before their flags: those of %d may be late", first)
            yield self._held.pop(first)

    def _add_flags(self, uid: int | None, flags: tuple[str, ...], text: bytes) -> Iterator[FetchedMessage]:
        number = _number_of(text)
        held = self._held.pop(uid or self._numbers.get(number, 0), None)
        if held:
            yield held._replace(flags=flags)
        elif len(self._early) < _MAX_EARLY:
            self._early[uid or number] = flags


def _message(
    uid: int, flags: tuple[str, ...], text: bytes, items: bytes, raw: bytes, blank: int, *, is_literal: bool
) -> FetchedMessage:
    """Make a message. Raises ProtocolError where the literal is too
    short and the blanks after it are the rest of the message."""
    announced = _ANNOUNCED.search(items) if is_literal and raw == b"" else None
    skipped = read_number(announced[1]) if announced else 0
    found = _SIZE.search(items)
    size = read_number(found[1]) if found else skipped or len(raw)
    # Sizes are not compared exactly, as some servers count a line end of LF as CRLF.
    if 0 < size - (skipped or len(raw)) <= blank:
        raise ProtocolError(f"the literal of message {uid} ended {blank} bytes early; its length was wrong")
    return FetchedMessage(
        uid=uid,
        flags=flags,
        received_at=read_internaldate(text),
        size=size,
        raw=None if skipped else raw,
        thread_id=_gmail_thread(items),
    )


def read_envelopes(lines: Iterable[Line]) -> Iterator[FetchedEnvelope]:
    """Envelopes from answers with UID, FLAGS, INTERNALDATE, RFC822.SIZE and BODY[HEADER.FIELDS (MESSAGE-ID)]."""
    for text, literal, _ in _joined(lines):
        uid, flags, items = _identified(text)
        if uid and (size := _SIZE.search(items)):
            yield FetchedEnvelope(
                uid=uid,
                flags=flags,
                received_at=read_internaldate(text),
                size=read_number(size[1]),
                header=literal if literal is not None else _quoted_body(text) or b"",
            )


def read_only_uids(lines: Iterable[Line]) -> Iterator[int]:
    """The UID of each answer that has one."""
    for text, _, _ in _joined(lines):
        if uid := _identified(text)[0]:
            yield uid


def read_numbered_uids(lines: Iterable[Line]) -> Iterator[tuple[int, int]]:
    """The message number and the UID of each answer that has both."""
    for text, _, _ in _joined(lines):
        if (uid := _identified(text)[0]) and (number := _number_of(text)):
            yield read_number(number), uid


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


# The cache is small, because a server can make each text as long as it likes.
@lru_cache(maxsize=64)
def _split_flags(flags: bytes) -> tuple[str, ...]:
    return tuple(flags.decode("utf-8", "replace").split())


def _identified(text: bytes) -> tuple[int | None, tuple[str, ...] | None, bytes]:
    """The UID, the flags with Gmail's labels, and the other items of an answer to FETCH.

    `UID 7` inside of a quoted body or of a keyword is not taken for the item UID.
    """
    items = _QUOTED.sub(b'""', text) if b'"' in text else text
    labels = _gmail_labels(text) if b"X-GM-LABELS" in items else ()
    flags = _FLAGS.search(items)
    if flags:
        items = items[: flags.start()] + items[flags.end() :]
    uid = _UID.search(items)
    return (
        read_number(uid[1], HIGHEST_UID) if uid else None,
        (*_split_flags(flags[1]), *labels) if flags else None,
        items,
    )


def _gmail_labels(text: bytes) -> tuple[str, ...]:
    """The labels of X-GM-LABELS, decoded for people. Gmail's own labels begin with a backslash, as flags do."""
    # Quoted text is replaced by text of the same length, because a label may hold a parenthesis.
    blotted = _QUOTED.sub(lambda quoted: b'"' + b"_" * (len(quoted[0]) - 2) + b'"', text)
    found = _GMAIL_LABELS.search(blotted)
    if not found:
        return ()
    words = _LABEL.findall(text[found.start(1) : found.end(1)])
    return tuple(decode_name(string(word).decode("utf-8", "replace")) for word in words)


def _gmail_thread(items: bytes) -> str | None:
    found = _GMAIL_THREAD.search(items)
    return f"gmail-{found[1].decode()}" if found else None


def _joined(lines: Iterable[Line]) -> Iterator[tuple[bytes, bytes | None, int]]:
    """Each answer as its text without the literal, its literal, and the bytes of blank space after that.

    Raises ProtocolError where the text after a literal does not end the answer: then the server gave a wrong length,
    and nothing that follows can be trusted.
    """
    pending: tuple[bytes, bytes] | None = None
    for line in lines:
        if line is None:
            continue
        if isinstance(line, tuple):
            if pending:
                raise ProtocolError(f"after a literal came {shown(line[0])}; its length was wrong")
            pending = line
        elif pending:
            before, literal = pending
            pending = None
            if line == b")":
                yield before + line, literal, 0
                continue
            if not _AFTER_LITERAL.fullmatch(line):
                raise ProtocolError(f"after a literal came {shown(line)}; its length was wrong")
            items = line.lstrip()
            between = line[: len(line) - len(items)]
            # One blank before an item is no blank after the literal.
            yield before + line, literal, len(between if items.startswith(b")") else between.removesuffix(b" "))
        else:
            yield line, None, 0


def _number_of(text: bytes) -> bytes:
    found = _NUMBER.match(text)
    return found[1] if found else b""


def _quoted_body(text: bytes) -> bytes | None:
    match = _BODY_QUOTED.search(text)
    return unescaped(match[1]) if match and match[1] is not None else None
