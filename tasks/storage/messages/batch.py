"""Stores a batch of new messages and its checkpoint, in the caller's transaction: each table in one COPY.

The rows come ready-made from `tasks.storage.messages.arrivals`. Attachments are stored once by content.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, text

from tasks.storage import copy, wire
from tasks.storage.accounts.rows import Account
from tasks.storage.events import tell_of_new_messages
from tasks.storage.ids import new_id
from tasks.storage.messages.arrivals import ATTACHMENT_COLUMNS, MESSAGE_COLUMNS, Arrival, Quarantined
from tasks.storage.messages.conversations import assign_conversations
from tasks.storage.session import tenant_transaction


class UidNumbering(NamedTuple):
    """The messages of a batch have UIDs, which hold as long as UIDVALIDITY stays the same."""

    uidvalidity: int

    def fields(self, uid: int) -> bytes:
        """The columns uidvalidity, imap_uid and uidl of message `uid`."""
        return wire.bigint(self.uidvalidity) + wire.bigint(uid) + wire.NULL

    def suspect(self, uid: int) -> dict[str, object]:
        """The columns of the folder that name the message."""
        return {"suspect_uid": uid}


class UidlNumbering(NamedTuple):
    """The messages of a POP3 batch have numbers, which hold for
    one session only, and lasting keys, which this maps them to."""

    uidls: Mapping[int, str]

    def fields(self, uid: int) -> bytes:
        """The columns uidvalidity, imap_uid and uidl of message `uid`."""
        return wire.NULL + wire.NULL + wire.text(self.uidls[uid])

    def suspect(self, uid: int) -> dict[str, object]:
        """The columns of the folder that name the message."""
        return {"suspect_uidl": self.uidls[uid]}


Numbering = UidNumbering | UidlNumbering


class Batch(NamedTuple):
    """Messages that are committed together.

    Afterwards all messages with UIDs below `uidnext` are stored or in quarantine.
    """

    arrivals: Sequence[Arrival]
    quarantined: Sequence[Quarantined]
    uidnext: int


_PLACE_COLUMNS = ("tenant_id", "email_client_id", "folder_id", "uidvalidity", "imap_uid", "uidl")
_MESSAGE_COLUMNS = (*_PLACE_COLUMNS, *MESSAGE_COLUMNS, "conversation_id")
_ATTACHMENT_COLUMNS = ("tenant_id", *ATTACHMENT_COLUMNS)
_BLOB_COLUMNS = ("tenant_id", "sha256", "size", "content")
_QUARANTINE_COLUMNS = (*_PLACE_COLUMNS, "id", "reason", "detail", "size", "raw")

# The locks last until the transaction ends, so that cleanup deletes no blob before an attachment refers to it.
_KNOWN_BLOBS = text("SELECT sha256 FROM blob WHERE tenant_id = :tenant_id AND sha256 = ANY(:digests) FOR KEY SHARE")
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


def find_message(account: Account, folder_type: str, message_id: str) -> str | None:
    """The id of the newest message with this Message-ID in a folder of this type."""
    key = {"tenant_id": account.tenant_id, "account_id": account.id}
    with tenant_transaction(account.tenant_id) as connection:
        found: str | None = connection.scalar(_FIND, {**key, "folder_type": folder_type, "message_id": message_id})
    return found


def store_batch(connection: Connection, account: Account, folder_id: str, numbering: Numbering, batch: Batch) -> None:
    """Store the batch, count it in the folder, and move the folder's checkpoint."""
    tenant = wire.text(account.tenant_id)
    place = tenant + wire.text(account.id) + wire.text(folder_id)
    arrivals = batch.arrivals
    store_blobs(connection, account.tenant_id, arrivals)
    conversations = assign_conversations(connection, account, arrivals)
    if account.has_synced:
        ids = [arrival.id for arrival in arrivals]
        tell_of_new_messages(connection, account.tenant_id, account.id, folder_id, ids)
    copy.bulk_insert(
        connection,
        "email_message",
        _MESSAGE_COLUMNS,
        (
            (place, numbering.fields(arrival.uid), arrival.row, wire.text(conversation))
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


def store_blobs(connection: Connection, tenant_id: str, arrivals: Sequence[Arrival]) -> None:
    """Store the contents of the messages' attachments, in the caller's transaction.

    Contents that are stored already stay.
    """
    contents = {key: content for arrival in arrivals for key, content in arrival.blobs.items()}
    if not contents:
        return
    known = connection.scalars(_KNOWN_BLOBS, {"tenant_id": tenant_id, "digests": list(contents)}).all()
    for key in known:
        del contents[key]
    tenant = wire.text(tenant_id)
    # Sorted, so that two workers that store the same content wait for each other instead of deadlocking.
    copy.bulk_insert(
        connection,
        "blob",
        _BLOB_COLUMNS,
        (
            (tenant, wire.text(key), wire.bigint(len(content)), wire.binary(content))
            for key, content in sorted(contents.items())
        ),
    )


def _quarantine_fields(quarantined: Quarantined) -> tuple[bytes, ...]:
    return (
        wire.text(new_id()),
        wire.text(quarantined.reason),
        wire.text(quarantined.detail),
        wire.bigint(quarantined.size),
        wire.binary(quarantined.raw),
    )
