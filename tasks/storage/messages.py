"""Stores a batch of new messages and its checkpoint, in the caller's transaction.

No per-row round trips: each table gets its rows in one COPY. Attachments are stored once by content.
"""

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, text

from tasks.mail.flags import Flags
from tasks.mail.message import Address, ParsedMessage
from tasks.storage import copy
from tasks.storage.accounts import Account
from tasks.storage.conversations import assign_conversations
from tasks.storage.ids import new_id

# An index entry of PostgreSQL holds about 2,700 bytes; Message-IDs beyond this length are nobody's but a fuzzer's.
_LONGEST_MESSAGE_ID = 500


class Arrival(NamedTuple):
    """A new message: where it stands on the server, its state, and its content. `size` is RFC822.SIZE."""

    uid: int
    flags: Flags
    received_at: datetime | None
    size: int
    message: ParsedMessage
    digests: tuple[str, ...]


class Quarantined(NamedTuple):
    """A message that could not be stored: `reason` is a code, `detail` is for people, `raw` what the server gave."""

    uid: int
    reason: str
    detail: str
    size: int
    raw: bytes | None


class Batch(NamedTuple):
    """Messages that are committed together; afterwards all UIDs below `uidnext` are accounted for."""

    arrivals: Sequence[Arrival]
    quarantined: Sequence[Quarantined]
    uidnext: int


_MESSAGE_COLUMNS = (
    "tenant_id", "email_client_id", "folder_id", "uidvalidity", "id", "imap_uid", "message_id", "conversation_id",
    "from_addresses", "to_addresses", "cc_addresses", "bcc_addresses", "reply_to_addresses",
    "subject", "text_body", "html_body", "headers", "received_at", "sent_at",
    "is_read", "is_starred", "is_spam", "is_draft", "is_sent", "is_deleted", "labels", "attachment_count", "size",
)  # fmt: skip
_ATTACHMENT_COLUMNS = (
    "tenant_id", "id", "email_message_id", "position", "filename", "mime_type", "size", "content_id", "is_inline",
    "storage_key",
)  # fmt: skip
_BLOB_COLUMNS = ("tenant_id", "sha256", "size", "content")
_QUARANTINE_COLUMNS = (
    "tenant_id", "email_client_id", "folder_id", "uidvalidity", "id", "imap_uid", "reason", "detail", "size", "raw",
)  # fmt: skip

_KNOWN_BLOBS = text("SELECT sha256 FROM blob WHERE tenant_id = :tenant_id AND sha256 = ANY(:digests)")
_CHECKPOINT = text(
    """
    UPDATE email_folder
    SET uidnext = greatest(uidnext, :uidnext), total_count = total_count + :total,
        unread_count = unread_count + :unread
    WHERE tenant_id = :tenant_id AND id = :folder_id
    """
)


def digest(content: bytes) -> str:
    """The key of a blob: SHA-256, hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def store_batch(connection: Connection, account: Account, folder_id: str, uidvalidity: int, batch: Batch) -> None:
    """Store the batch, count it in the folder, and move the folder's checkpoint."""
    here = tuple(copy.text(value) for value in (account.tenant_id, account.id, folder_id))
    place = (*here, copy.bigint(uidvalidity))
    if batch.arrivals:
        _store_blobs(connection, account.tenant_id, batch.arrivals)
        _store_messages(connection, account, place, batch.arrivals)
    copy.bulk_insert(
        connection,
        "raw_quarantine",
        _QUARANTINE_COLUMNS,
        [(*place, *_quarantine_fields(quarantined)) for quarantined in batch.quarantined],
    )
    connection.execute(
        _CHECKPOINT,
        {
            "tenant_id": account.tenant_id,
            "folder_id": folder_id,
            "uidnext": batch.uidnext,
            "total": len(batch.arrivals),
            "unread": sum(not arrival.flags.is_read for arrival in batch.arrivals),
        },
    )


def _store_blobs(connection: Connection, tenant_id: str, arrivals: Sequence[Arrival]) -> None:
    contents = {
        key: attachment.content
        for arrival in arrivals
        for key, attachment in zip(arrival.digests, arrival.message.attachments, strict=True)
    }
    if not contents:
        return
    known = connection.scalars(_KNOWN_BLOBS, {"tenant_id": tenant_id, "digests": list(contents)}).all()
    for key in known:
        del contents[key]
    tenant = copy.text(tenant_id)
    # In order, so that two workers storing the same content wait for each other instead of deadlocking.
    rows = [
        (tenant, copy.text(key), copy.bigint(len(content)), copy.binary(content))
        for key, content in sorted(contents.items())
    ]
    copy.bulk_insert(connection, "blob", _BLOB_COLUMNS, rows)


def _store_messages(
    connection: Connection, account: Account, place: tuple[bytes, ...], arrivals: Sequence[Arrival]
) -> None:
    conversations = assign_conversations(connection, account, [arrival.message for arrival in arrivals])
    messages: list[tuple[bytes, ...]] = []
    attachments: list[tuple[bytes, ...]] = []
    for arrival, conversation in zip(arrivals, conversations, strict=True):
        row_id = copy.text(new_id())
        messages.append((*place, row_id, *_message_fields(arrival, conversation)))
        attachments += _attachment_rows(place[0], row_id, arrival)
    copy.bulk_insert(connection, "email_message", _MESSAGE_COLUMNS, messages)
    copy.bulk_insert(connection, "email_attachment", _ATTACHMENT_COLUMNS, attachments)


def _message_fields(arrival: Arrival, conversation: str | None) -> tuple[bytes, ...]:
    message, flags = arrival.message, arrival.flags
    return (
        copy.bigint(arrival.uid),
        copy.text(message.message_id and message.message_id[:_LONGEST_MESSAGE_ID]),
        copy.text(conversation),
        _addresses(message.from_),
        _addresses(message.to),
        _addresses(message.cc),
        _addresses(message.bcc),
        _addresses(message.reply_to),
        copy.text(message.subject),
        copy.text(message.text_body),
        copy.text(message.html_body),
        copy.jsonb(message.headers),
        copy.timestamptz(arrival.received_at),
        copy.timestamptz(message.date),
        copy.boolean(flags.is_read),
        copy.boolean(flags.is_starred),
        copy.boolean(flags.is_spam),
        copy.boolean(flags.is_draft),
        copy.boolean(flags.is_sent),
        copy.boolean(flags.is_deleted),
        copy.text_array(flags.labels),
        copy.integer(len(message.attachments)),
        copy.bigint(arrival.size),
    )


def _attachment_rows(tenant: bytes, message_row_id: bytes, arrival: Arrival) -> list[tuple[bytes, ...]]:
    return [
        (
            tenant,
            copy.text(new_id()),
            message_row_id,
            copy.integer(position),
            copy.text(attachment.filename),
            copy.text(attachment.mime_type),
            copy.bigint(len(attachment.content)),
            copy.text(attachment.content_id),
            copy.boolean(attachment.is_inline),
            copy.text(key),
        )
        for position, (attachment, key) in enumerate(zip(arrival.message.attachments, arrival.digests, strict=True))
    ]


def _quarantine_fields(quarantined: Quarantined) -> tuple[bytes, ...]:
    return (
        copy.text(new_id()),
        copy.bigint(quarantined.uid),
        copy.text(quarantined.reason),
        copy.text(quarantined.detail),
        copy.bigint(quarantined.size),
        copy.binary(quarantined.raw),
    )


def _addresses(addresses: Sequence[Address]) -> bytes:
    if not addresses:
        return copy.EMPTY_JSONB
    return copy.jsonb([{"name": name, "address": address} for name, address in addresses])
