"""Turns a parsed message into rows in PostgreSQL's wire format, in any process and without a connection."""

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from tasks.mail.imap.flags import Flags
from tasks.mail.message import PARSER_VERSION, Address, ParsedMessage
from tasks.mail.spam.verdict import Verdict
from tasks.storage import wire
from tasks.storage.ids import new_id

# PostgreSQL's index entries hold about 2,700 bytes. Only broken or hostile mail has longer Message-IDs.
MAX_MESSAGE_ID_LENGTH = 500

# The columns of `Arrival.row`, and of its `attachment_rows`, in their order.
MESSAGE_COLUMNS = (
    "id", "message_id", "from_addresses", "to_addresses", "cc_addresses",
    "bcc_addresses", "reply_to_addresses", "subject", "text_body", "html_body", "headers", "received_at", "sent_at",
    "is_read", "is_starred", "is_spam", "is_not_spam", "is_draft", "is_sent", "is_deleted", "labels",
    "attachment_count", "size", "spam_score", "spam_indicators", "parser_version",
)  # fmt: skip
ATTACHMENT_COLUMNS = (
    "id", "email_message_id", "position", "filename", "mime_type", "size", "content_id", "is_inline", "storage_key",
)  # fmt: skip

_PARSER_VERSION = wire.smallint(PARSER_VERSION)


class Arrival(NamedTuple):
    """A new message, ready to be stored: `row` and `attachment_rows` are fields in their wire form.

    `id` is that of the new row. `raw` is kept until the message is stored, in case PostgreSQL refuses it.
    `message_id`, `in_reply_to` and `references` decide the conversation, unless the
    server does (`thread_id`). `blobs` are contents of attachments by their digest.
    """

    id: str
    uid: int
    size: int
    raw: bytes
    is_read: bool
    message_id: str | None
    in_reply_to: tuple[str, ...]
    references: tuple[str, ...]
    thread_id: str | None
    row: bytes
    attachment_rows: tuple[bytes, ...]
    blobs: dict[str, bytes]


class Quarantined(NamedTuple):
    """A message that could not be stored: `reason` is a code, `detail` is for people, `raw` what the server gave."""

    uid: int
    reason: str
    detail: str
    size: int
    raw: bytes | None


def prepare(
    uid: int,
    flags: Flags,
    received_at: datetime | None,
    size: int,
    raw: bytes,
    message: ParsedMessage,
    verdict: Verdict | None,
    thread_id: str | None = None,
) -> Arrival:
    """A message as rows. `received_at` is INTERNALDATE, `size` RFC822.SIZE,
    and `verdict` None for a message that was not checked for spam.

    Raises ValueError or TypeError for a string that PostgreSQL cannot store; the parser returns no such strings.
    """
    new = new_id()
    row_id = wire.text(new)
    digests = [hashlib.sha256(attachment.content).hexdigest() for attachment in message.attachments]
    message_id = message.message_id and message.message_id[:MAX_MESSAGE_ID_LENGTH]
    return Arrival(
        id=new,
        uid=uid,
        size=size,
        raw=raw,
        is_read=flags.is_read,
        message_id=message_id,
        in_reply_to=message.in_reply_to,
        references=message.references,
        thread_id=thread_id,
        row=row_id + _message_row(message_id, flags, received_at, size, message, verdict),
        attachment_rows=_attachment_rows(row_id, message, digests),
        blobs={key: attachment.content for key, attachment in zip(digests, message.attachments, strict=True)},
    )


def _message_row(
    message_id: str | None,
    flags: Flags,
    received_at: datetime | None,
    size: int,
    message: ParsedMessage,
    verdict: Verdict | None,
) -> bytes:
    return b"".join(
        (
            wire.text(message_id),
            _addresses(message.from_),
            _addresses(message.to),
            _addresses(message.cc),
            _addresses(message.bcc),
            _addresses(message.reply_to),
            wire.text(message.subject),
            wire.text(message.text_body),
            wire.text(message.html_body),
            wire.jsonb(message.headers),
            wire.timestamptz(received_at),
            wire.timestamptz(message.date),
            wire.boolean(flags.is_read),
            wire.boolean(flags.is_starred),
            wire.boolean(flags.is_spam),
            wire.boolean(flags.is_not_spam),
            wire.boolean(flags.is_draft),
            wire.boolean(flags.is_sent),
            wire.boolean(flags.is_deleted),
            wire.text_array(flags.labels),
            wire.integer(len(message.attachments)),
            wire.bigint(size),
            _verdict(verdict),
            _PARSER_VERSION,
        )
    )


def _verdict(verdict: Verdict | None) -> bytes:
    """The columns spam_score and spam_indicators."""
    if verdict is None:
        return wire.NULL + wire.EMPTY_JSONB
    indicators = [indicator._asdict() for indicator in verdict.indicators]
    return wire.real(verdict.score) + (wire.jsonb(indicators) if indicators else wire.EMPTY_JSONB)


def _attachment_rows(message_row_id: bytes, message: ParsedMessage, digests: list[str]) -> tuple[bytes, ...]:
    return tuple(
        b"".join(
            (
                wire.text(new_id()),
                message_row_id,
                wire.integer(position),
                wire.text(attachment.filename),
                wire.text(attachment.mime_type),
                wire.bigint(len(attachment.content)),
                wire.text(attachment.content_id),
                wire.boolean(attachment.is_inline),
                wire.text(key),
            )
        )
        for position, (attachment, key) in enumerate(zip(message.attachments, digests, strict=True))
    )


def _addresses(addresses: Sequence[Address]) -> bytes:
    if not addresses:
        return wire.EMPTY_JSONB
    return wire.jsonb([{"name": name, "address": address} for name, address in addresses])
