"""The keys of POP3 messages: the unique-id (RFC 1939, UIDL), or a digest of the content.

A unique-id is the same in every session. The number of a message is not, so numbers are never stored. Two messages
with the same unique-id and size are copies of each other, which the standard allows.

Where a server gives no unique-id, the key is a digest of the header. The digest leaves out fields that servers add or
change later. A header without a Message-ID does not identify a message, so there the whole message is digested.
"""

import hashlib
import re
from collections.abc import Iterable
from typing import NamedTuple

# The standard says 1 to 70 characters. Some servers use more, and an index could hold many more.
_UNIQUE_ID = re.compile(r"[!-~]{1,200}")
_FIELD = re.compile(rb"^([!-9;-~]+)[ \t]*:.*\n?(?:[ \t].*\n?)*", re.MULTILINE)
_END_OF_HEADER = re.compile(rb"\r?\n\r?\n")
_CHANGING_FIELDS = {b"status", b"x-status", b"x-keywords", b"x-uid", b"x-uidl", b"content-length", b"lines"}


class UidlEntry(NamedTuple):
    """A message as LIST and UIDL name it: its number in this session, its size in bytes, its unique-id if any."""

    number: int
    size: int
    unique_id: str | None


def read_unique_id(word: bytes) -> str | None:
    """The unique-id in an answer to UIDL, or None for a word that is no unique-id."""
    text = word.decode("latin-1")
    return text if _UNIQUE_ID.fullmatch(text) else None


def keys_by_unique_id(messages: Iterable[UidlEntry]) -> dict[int, str]:
    """By number, the key of each message that has a unique-id. The other messages need keys made of their content."""
    sizes: dict[str, int] = {}
    return {
        message.number: message.unique_id
        for message in messages
        if message.unique_id and sizes.setdefault(message.unique_id, message.size) == message.size
    }


def key_of_header(header: bytes) -> str | None:
    """A key made of the header, or None where it has no Message-ID."""
    fields = list(_FIELD.finditer(_END_OF_HEADER.split(header, maxsplit=1)[0] + b"\n"))
    names = [match[1].lower() for match in fields]
    if b"message-id" not in names:
        return None
    kept = (match[0].strip() for match, name in zip(fields, names, strict=True) if name not in _CHANGING_FIELDS)
    return _digest(b"\n".join(line.replace(b"\r", b"") for line in kept))


def key_of_message(raw: bytes) -> str:
    """A key made of a whole message."""
    return key_of_header(raw) or _digest(raw)


def key_of_size(size: int) -> str:
    """The key of a message that is too large to be digested."""
    return f"size:{size}"


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
