"""Messages that are to be deleted, and the changes of their rows: moved to Trash, removed, or marked.

Each change is one statement or two for any number of messages, in the caller's transaction, and keeps the counts of
the folders right. The ids that a task is to delete are noted before the task begins, under the key of its work, the
same key that a dead letter has. So the run after a killed run, and the retry of a dead letter after weeks, know which
messages were the caller's although they are gone.
"""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, text

from tasks.storage.accounts.rows import Account
from tasks.storage.events import INSERT_EVENTS
from tasks.storage.messages.changes import Envelope
from tasks.storage.messages.folders import Folder
from tasks.storage.session import unbound_transaction

_FIND = text(
    """
    SELECT message.id, message.email_client_id, message.folder_id, folder.type, message.uidvalidity, message.imap_uid,
           message.uidl, message.message_id, message.size, message.received_at
    FROM email_message AS message
    JOIN email_folder AS folder ON folder.tenant_id = message.tenant_id AND folder.id = message.folder_id
    JOIN email_client AS account ON account.tenant_id = message.tenant_id AND account.id = message.email_client_id
    WHERE message.tenant_id = :tenant_id AND account.user_id = :user_id AND message.id = ANY(CAST(:ids AS text[]))
    ORDER BY message.folder_id, message.imap_uid
    """
)
_NOTED = text("SELECT email_message_id FROM deletion WHERE tenant_id = :tenant_id AND task_key = ANY(:keys)")
_FORGET = text(
    """
    DELETE FROM deletion
    WHERE tenant_id = :tenant_id AND created_at < now() - make_interval(days => :days) AND NOT EXISTS (
      SELECT FROM dead_letter AS letter
      WHERE letter.tenant_id = deletion.tenant_id AND letter.task_key = deletion.task_key
    )
    """
)

_COUNT = text(
    """
    WITH counted AS (
      SELECT folder_id, count(*) AS total, count(*) FILTER (WHERE NOT is_read) AS unread FROM email_message
      WHERE tenant_id = :tenant_id AND id = ANY(CAST(:ids AS text[])) GROUP BY folder_id
    )
    UPDATE email_folder AS folder
    SET total_count = total_count + :sign * counted.total, unread_count = unread_count + :sign * counted.unread
    FROM counted WHERE folder.tenant_id = :tenant_id AND folder.id = counted.folder_id
    """
)
_FILED = text(
    """
    SELECT twin.imap_uid FROM email_message AS message
    JOIN email_message AS twin
      ON twin.tenant_id = message.tenant_id AND twin.email_client_id = message.email_client_id
     AND twin.message_id = message.message_id AND twin.size = message.size
    WHERE message.tenant_id = :tenant_id AND message.id = ANY(CAST(:ids AS text[])) AND message.is_deleted
      AND twin.folder_id = :trash_id AND twin.uidvalidity = :uidvalidity
    """
)
_TWINS = text(
    """
    SELECT id FROM email_message
    WHERE tenant_id = :tenant_id AND folder_id = :target_id AND uidvalidity = :uidvalidity
      AND imap_uid = ANY(CAST(:uids AS bigint[])) AND id <> ALL(CAST(:ids AS text[]))
    """
)
# Flags that a message had only because of its old folder are cleared.
_FILE = text(
    f"""
    WITH moved AS (
    UPDATE email_message AS message
    SET folder_id = :target_id, uidvalidity = :uidvalidity, imap_uid = moving.uid, filed_at = now(),
        is_sent = false, is_spam = message.is_spam AND folder.type <> 'spam',
        is_draft = message.is_draft AND folder.type <> 'drafts', is_deleted = false
    FROM unnest(CAST(:ids AS text[]), CAST(:uids AS bigint[])) AS moving (id, uid), email_folder AS folder
    WHERE message.tenant_id = :tenant_id AND message.id = moving.id
      AND folder.tenant_id = message.tenant_id AND folder.id = message.folder_id
    RETURNING message.id, message.email_client_id, message.folder_id, folder.id AS old_folder_id,
              message.is_sent, message.is_spam, message.is_draft, message.is_deleted
    )
    {INSERT_EVENTS}
    SELECT :tenant_id, email_client_id, 'message.updated', jsonb_build_object(
      'email_message_id', id, 'folder_id', old_folder_id, 'changes', jsonb_build_object(
        'folder_id', folder_id, 'is_sent', is_sent, 'is_spam', is_spam, 'is_draft', is_draft, 'is_deleted', is_deleted
      )
    )
    FROM moved WHERE :is_told
    """
)
_REMOVE = text(
    f"""
    WITH removed AS (
      DELETE FROM email_message WHERE tenant_id = :tenant_id AND id = ANY(CAST(:ids AS text[]))
      RETURNING id, email_client_id, folder_id
    )
    {INSERT_EVENTS}
    SELECT :tenant_id, email_client_id, 'message.deleted',
           jsonb_build_object('email_message_id', id, 'folder_id', folder_id)
    FROM removed WHERE :is_told
    """
)
_NOTE = text(
    """
    INSERT INTO deletion (tenant_id, task_key, email_message_id)
    SELECT :tenant_id, key, id
    FROM unnest(CAST(:keys AS text[])) AS keys (key), unnest(CAST(:ids AS text[])) AS ids (id)
    ON CONFLICT ON CONSTRAINT deletion_pkey DO UPDATE SET created_at = now()
    """
)
_MARK = text(
    f"""
    WITH marked AS (
      UPDATE email_message SET is_deleted = true
      WHERE tenant_id = :tenant_id AND id = ANY(CAST(:ids AS text[])) AND NOT is_deleted
      RETURNING id, email_client_id, folder_id
    )
    {INSERT_EVENTS}
    SELECT :tenant_id, email_client_id, 'message.updated', jsonb_build_object(
      'email_message_id', id, 'folder_id', folder_id, 'changes', jsonb_build_object('is_deleted', true)
    )
    FROM marked WHERE :is_told
    """
)
_EXPIRED = text(
    """
    SELECT message.id FROM email_message AS message
    JOIN email_folder AS folder ON folder.tenant_id = message.tenant_id AND folder.id = message.folder_id
    JOIN email_client AS account ON account.tenant_id = message.tenant_id AND account.id = message.email_client_id
    WHERE message.tenant_id = :tenant_id AND account.user_id = :user_id AND account.id = :account_id
      AND folder.type = 'trash' AND message.filed_at < now() - make_interval(days => :days) AND NOT message.is_deleted
    ORDER BY message.filed_at LIMIT :most
    """
)
_WITH_EXPIRED_TRASH = text(
    "SELECT tenant_id, email_client_id, user_id FROM accounts_with_expired_trash(:days, :tenant, :account, :most)"
)


class Target(NamedTuple):
    """A message that is to be deleted, and its place on the server."""

    id: str
    email_client_id: str
    folder_id: str
    folder_type: str
    uidvalidity: int | None
    imap_uid: int | None
    uidl: str | None
    message_id: str | None
    size: int
    received_at: datetime | None

    @property
    def envelope(self) -> Envelope:
        """The envelope that identifies the message."""
        return Envelope(self.imap_uid or 0, self.message_id, self.size, self.received_at)


def find_messages(connection: Connection, tenant_id: str, user_id: str, ids: Collection[str]) -> list[Target]:
    """The messages with these `ids` that are the caller's."""
    rows = connection.execute(_FIND, {"tenant_id": tenant_id, "user_id": user_id, "ids": list(ids)})
    return [Target._make(row) for row in rows]


def noted_messages(connection: Connection, tenant_id: str, keys: Collection[str], days: int) -> set[str]:
    """The ids that `note_messages` stored under one of these keys.

    Deletes notes that are older than `days`, unless there is a dead letter that needs them.
    """
    connection.execute(_FORGET, {"tenant_id": tenant_id, "days": days})
    return set(connection.scalars(_NOTED, {"tenant_id": tenant_id, "keys": list(keys)}))


def note_messages(connection: Connection, tenant_id: str, keys: Collection[str], ids: Collection[str]) -> None:
    """Note under these keys that the task is to delete the messages with these ids."""
    connection.execute(_NOTE, {"tenant_id": tenant_id, "keys": list(keys), "ids": list(set(ids))})


def filed_uids(connection: Connection, account: Account, trash: Folder, ids: Collection[str]) -> list[int]:
    """UIDs in Trash of rows with the same mail as those messages of `ids` that are marked as deleted."""
    place = {"trash_id": trash.id, "uidvalidity": trash.uidvalidity}
    return list(connection.scalars(_FILED, {"tenant_id": account.tenant_id, "ids": list(ids), **place}))


def move_messages(
    connection: Connection, account: Account, target: Folder, uidvalidity: int | None, uids: Mapping[str, int | None]
) -> None:
    """Move messages to another folder. `uids` maps message ids to the UIDs there, or to None on POP3."""
    if not uids:
        return
    key = {"tenant_id": account.tenant_id, "ids": list(uids)}
    place = {"target_id": target.id, "uidvalidity": uidvalidity, "uids": list(uids.values())}
    # If a sync has made a second row for the message in its new place, that row is removed: callers know the old id.
    remove_messages(connection, account, connection.scalars(_TWINS, {**key, **place}).all())
    connection.execute(_COUNT, {**key, "sign": -1})
    connection.execute(_FILE, {**key, **place, "is_told": account.has_synced})
    connection.execute(_COUNT, {**key, "sign": 1})


def remove_messages(connection: Connection, account: Account, ids: Collection[str]) -> None:
    """Remove messages with their attachments for good.

    Contents that no attachment refers to are removed by the cleanup.
    """
    key = {"tenant_id": account.tenant_id, "ids": list(ids)}
    if ids:
        connection.execute(_COUNT, {**key, "sign": -1})
        connection.execute(_REMOVE, {**key, "is_told": account.has_synced})


def mark_messages(connection: Connection, account: Account, ids: Collection[str]) -> None:
    """Mark messages as deleted, as they are on the server; they stay until a mail program expunges."""
    values = {"tenant_id": account.tenant_id, "ids": list(ids), "is_told": account.has_synced}
    connection.execute(_MARK, values)


def expired_in_trash(
    connection: Connection, tenant_id: str, user_id: str, account_id: str, days: int, most: int
) -> list[str]:
    """The messages of the caller's account that have been in its Trash for longer than `days`, oldest first."""
    values = {"tenant_id": tenant_id, "user_id": user_id, "account_id": account_id, "days": days, "most": most}
    return list(connection.scalars(_EXPIRED, values))


def accounts_with_expired_trash(days: int, after: tuple[str, str], most: int) -> list[tuple[str, str, str]]:
    """(tenant_id, email_client_id, user_id) of the next accounts after `after`, in order and of all tenants, with
    messages that have been in Trash for longer than `days`."""
    with unbound_transaction() as connection:
        rows = connection.execute(
            _WITH_EXPIRED_TRASH, {"days": days, "tenant": after[0], "account": after[1], "most": most}
        )
        return [(row[0], row[1], row[2]) for row in rows]
