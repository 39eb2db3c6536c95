"""Stores a batch of new messages and its checkpoint, in the caller's transaction.

Two steps: `prepare` turns a parsed message into rows of PostgreSQL's wire format, anywhere and without a connection;
`store_batch` sends the rows of many, each table in one COPY. Attachments are stored once by content.
"""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, text

from tasks.mail.flags import Flags
from tasks.mail.message import Address, ParsedMessage
from tasks.mail.spam.verdict import Verdict
from tasks.storage import copy
from tasks.storage.accounts import Account
from tasks.storage.conversations import assign_conversations
from tasks.storage.ids import new_id
from tasks.storage.session import tenant_transaction

# An index entry of PostgreSQL holds about 2,700 bytes; Message-IDs beyond this length are nobody's but a fuzzer's.
_LONGEST_MESSAGE_ID = 500


class Arrival(NamedTuple):
    """A new message, ready to be stored: `row` and `attachment_rows` are fields in their wire form.

    `raw` is kept until it is stored, in case PostgreSQL refuses it. `message_id`, `in_reply_to` and `references`
    decide its conversation, unless the server does (`thread_id`); `blobs` are contents by their digest.
    """

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


class UidNumbering(NamedTuple):
    """Messages are told apart by their UIDs, which are theirs as long as UIDVALIDITY stays the same."""

    uidvalidity: int

    def fields(self, uid: int) -> bytes:
        """The columns uidvalidity, imap_uid and uidl of message `uid`."""
        return copy.bigint(self.uidvalidity) + copy.bigint(uid) + copy.NULL

    def suspect(self, uid: int) -> dict[str, object]:
        """The columns of the folder that name the message."""
        return {"suspect_uid": uid}


class UidlNumbering(NamedTuple):
    """On POP3 messages have their numbers in one session only, and lasting keys; these are the keys."""

    uidls: Mapping[int, str]

    def fields(self, uid: int) -> bytes:
        """The columns uidvalidity, imap_uid and uidl of message `uid`."""
        return copy.NULL + copy.NULL + copy.text(self.uidls[uid])

    def suspect(self, uid: int) -> dict[str, object]:
        """The columns of the folder that name the message."""
        return {"suspect_uidl": self.uidls[uid]}


Numbering = UidNumbering | UidlNumbering


class Batch(NamedTuple):
    """Messages that are committed together; afterwards all UIDs below `uidnext` are accounted for."""

    arrivals: Sequence[Arrival]
    quarantined: Sequence[Quarantined]
    uidnext: int


_PLACE_COLUMNS = ("tenant_id", "email_client_id", "folder_id", "uidvalidity", "imap_uid", "uidl")
_MESSAGE_COLUMNS = (
    *_PLACE_COLUMNS, "id", "message_id", "from_addresses", "to_addresses", "cc_addresses",
    "bcc_addresses", "reply_to_addresses", "subject", "text_body", "html_body", "headers", "received_at", "sent_at",
    "is_read", "is_starred", "is_spam", "is_not_spam", "is_draft", "is_sent", "is_deleted", "labels",
    "attachment_count", "size", "spam_score", "spam_indicators", "conversation_id",
)  # fmt: skip
_ATTACHMENT_COLUMNS = (
    "tenant_id", "id", "email_message_id", "position", "filename", "mime_type", "size", "content_id", "is_inline",
    "storage_key",
)  # fmt: skip
_BLOB_COLUMNS = ("tenant_id", "sha256", "size", "content")
_QUARANTINE_COLUMNS = (*_PLACE_COLUMNS, "id", "reason", "detail", "size", "raw")

_KNOWN_BLOBS = text("SELECT sha256 FROM blob WHERE tenant_id = :tenant_id AND sha256 = ANY(:digests)")
_CHECKPOINT = text(
    """
    UPDATE email_folder
    SET uidnext = greatest(uidnext, :uidnext), total_count = total_count + :total,
        unread_count = unread_count + :unread
    WHERE tenant_id = :tenant_id AND id = :folder_id
    """
)


_FIND = text(
    """
    SELECT message.id FROM email_message AS message
    JOIN email_folder AS folder ON folder.tenant_id = message.tenant_id AND folder.id = message.folder_id
    WHERE message.tenant_id = :tenant_id AND message.email_client_id = :account_id
      AND message.message_id = :message_id AND folder.type = :folder_type
    ORDER BY message.id DESC LIMIT 1
    """
)


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
    `verdict` None for what was not checked.

    Raises ValueError or TypeError for a string that is not storable, which the parser lets none be.
    """
    row_id = copy.text(new_id())
    digests = [hashlib.sha256(attachment.content).hexdigest() for attachment in message.attachments]
    message_id = message.message_id and message.message_id[:_LONGEST_MESSAGE_ID]
    return Arrival(
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


def find_message(account: Account, folder_type: str, message_id: str) -> str | None:
    """The id of the newest message of that Message-ID in a folder of that type."""
    key = {"tenant_id": account.tenant_id, "account_id": account.id}
    with tenant_transaction(account.tenant_id) as connection:
        found: str | None = connection.scalar(_FIND, {**key, "folder_type": folder_type, "message_id": message_id})
    return found


def store_batch(connection: Connection, account: Account, folder_id: str, numbering: Numbering, batch: Batch) -> None:
    """Store the batch, count it in the folder, and move the folder's checkpoint."""
    tenant = copy.text(account.tenant_id)
    place = tenant + copy.text(account.id) + copy.text(folder_id)
    arrivals = batch.arrivals
    _store_blobs(connection, account.tenant_id, arrivals)
    conversations = assign_conversations(connection, account, arrivals)
    copy.bulk_insert(
        connection,
        "email_message",
        _MESSAGE_COLUMNS,
        (
            (place, numbering.fields(arrival.uid), arrival.row, copy.text(conversation))
            for arrival, conversation in zip(arrivals, conversations, strict=True)
        ),
    )
    copy.bulk_insert(
        connection,
        "email_attachment",
        _ATTACHMENT_COLUMNS,
        ((tenant, row) for arrival in arrivals for row in arrival.attachment_rows),
    )
    copy.bulk_insert(
        connection,
        "raw_quarantine",
        _QUARANTINE_COLUMNS,
        (
            (place, numbering.fields(quarantined.uid), *_quarantine_fields(quarantined))
            for quarantined in batch.quarantined
        ),
    )
    connection.execute(
        _CHECKPOINT,
        {
            "tenant_id": account.tenant_id,
            "folder_id": folder_id,
            "uidnext": batch.uidnext,
            "total": len(arrivals),
            "unread": sum(not arrival.is_read for arrival in arrivals),
        },
    )


def _store_blobs(connection: Connection, tenant_id: str, arrivals: Sequence[Arrival]) -> None:
    contents = {key: content for arrival in arrivals for key, content in arrival.blobs.items()}
    if not contents:
        return
    known = connection.scalars(_KNOWN_BLOBS, {"tenant_id": tenant_id, "digests": list(contents)}).all()
    for key in known:
        del contents[key]
    tenant = copy.text(tenant_id)
    # In order, so that two workers storing the same content wait for each other instead of deadlocking.
    copy.bulk_insert(
        connection,
        "blob",
        _BLOB_COLUMNS,
        (
            (tenant, copy.text(key), copy.bigint(len(content)), copy.binary(content))
            for key, content in sorted(contents.items())
        ),
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
            copy.text(message_id),
            _addresses(message.from_),
            _addresses(message.to),
            _addresses(message.cc),
            _addresses(message.bcc),
            _addresses(message.reply_to),
            copy.text(message.subject),
            copy.text(message.text_body),
            copy.text(message.html_body),
            copy.jsonb(message.headers),
            copy.timestamptz(received_at),
            copy.timestamptz(message.date),
            copy.boolean(flags.is_read),
            copy.boolean(flags.is_starred),
            copy.boolean(flags.is_spam),
            copy.boolean(flags.is_not_spam),
            copy.boolean(flags.is_draft),
            copy.boolean(flags.is_sent),
            copy.boolean(flags.is_deleted),
            copy.text_array(flags.labels),
            copy.integer(len(message.attachments)),
            copy.bigint(size),
            _verdict(verdict),
        )
    )


def _verdict(verdict: Verdict | None) -> bytes:
    """The columns spam_score and spam_indicators."""
    if verdict is None:
        return copy.NULL + copy.EMPTY_JSONB
    indicators = [indicator._asdict() for indicator in verdict.indicators]
    return copy.real(verdict.score) + (copy.jsonb(indicators) if indicators else copy.EMPTY_JSONB)


def _attachment_rows(message_row_id: bytes, message: ParsedMessage, digests: list[str]) -> tuple[bytes, ...]:
    return tuple(
        b"".join(
            (
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
        )
        for position, (attachment, key) in enumerate(zip(message.attachments, digests, strict=True))
    )


def _quarantine_fields(quarantined: Quarantined) -> tuple[bytes, ...]:
    return (
        copy.text(new_id()),
        copy.text(quarantined.reason),
        copy.text(quarantined.detail),
        copy.bigint(quarantined.size),
        copy.binary(quarantined.raw),
    )


def _addresses(addresses: Sequence[Address]) -> bytes:
    if not addresses:
        return copy.EMPTY_JSONB
    return copy.jsonb([{"name": name, "address": address} for name, address in addresses])
