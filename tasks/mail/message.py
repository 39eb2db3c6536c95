"""The frozen values that travel from the parser to storage.

They are named tuples and not dataclasses, because these are frozen too and several times cheaper to make, which
matters at thousands of messages a second.
"""

from datetime import datetime
from typing import NamedTuple

# The version of the parser. Raise it with every change after which `tasks.mail.parse.message.parse` reads some
# message differently, so that messages which earlier versions read can be read again (`./manage.sh reread`).
PARSER_VERSION = 4


class Address(NamedTuple):
    """One mailbox of an address header (RFC 5322 section 3.4); groups are flattened to their members."""

    name: str
    address: str


class Attachment(NamedTuple):
    """A part that is shown as a file, or that the HTML body shows inline by its Content-ID."""

    filename: str | None
    mime_type: str
    content: bytes
    content_id: str | None
    is_inline: bool


class FetchedMessage(NamedTuple):
    """One message from the wire. `uid` is its UID, or on POP3 its number in the session.

    `received_at` is INTERNALDATE, None where unreadable; `size` is RFC822.SIZE. `raw` is None where the message was
    larger than the limit. `thread_id` is the server's own name for the conversation, where it has one (Gmail).
    """

    uid: int
    flags: tuple[str, ...]
    received_at: datetime | None
    size: int
    raw: bytes | None
    thread_id: str | None = None


class ParsedMessage(NamedTuple):
    """What a mail client would show of one message.

    Every string is free of NUL and of lone surrogates, so PostgreSQL takes it as it is.

    `message_id`, `in_reply_to` and `references` hold identifiers without angle brackets (RFC 5322 section
    3.6.4); `references` runs from the root of the thread to the parent. `date` is aware and in UTC, or None
    where the header is missing or unreadable. `html_body` is sanitised. `headers` maps each name, in the case
    it first appeared with, to all its decoded values in order.
    """

    message_id: str | None
    in_reply_to: tuple[str, ...]
    references: tuple[str, ...]
    from_: tuple[Address, ...]
    to: tuple[Address, ...]
    cc: tuple[Address, ...]
    bcc: tuple[Address, ...]
    reply_to: tuple[Address, ...]
    subject: str
    date: datetime | None
    text_body: str | None
    html_body: str | None
    headers: dict[str, list[str]]
    attachments: tuple[Attachment, ...]
