"""Applies changes on the server to stored messages: flags, removals, new UIDs.

Each function is one statement or two for any number of messages, in the caller's transaction, and keeps the
folder's counts right.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, TextClause, text

from tasks.mail.imap.flags import Flags
from tasks.mail.imap.uidset import UidSet
from tasks.storage import copy, wire
from tasks.storage.accounts.rows import Account
from tasks.storage.events import INSERT_EVENTS, tell
from tasks.storage.messages.folders import Folder
from tasks.storage.states import EventType

_FLAGS = ("is_read", "is_starred", "is_spam", "is_not_spam", "is_draft", "is_sent", "is_deleted", "labels")


def _flags_of(table: str) -> str:
    pairs = ", ".join(f"'{name}', {table}.{name}" for name in _FLAGS)
    return f"jsonb_build_object({pairs})"


# `changed` holds only rows that differ, so a flag that was set again costs no write.
_UPDATE_FLAGS = text(
    f"""
    WITH fetched AS (
      SELECT uid, is_read, is_starred, is_spam, is_not_spam, is_draft, is_sent, is_deleted,
             string_to_array(labels, E'\x1f') AS labels
      FROM unnest(CAST(:uids AS bigint[]), CAST(:is_read AS boolean[]), CAST(:is_starred AS boolean[]),
                  CAST(:is_spam AS boolean[]), CAST(:is_not_spam AS boolean[]), CAST(:is_draft AS boolean[]),
                  CAST(:is_sent AS boolean[]), CAST(:is_deleted AS boolean[]), CAST(:labels AS text[]))
           AS fetched (uid, is_read, is_starred, is_spam, is_not_spam, is_draft, is_sent, is_deleted, labels)
    ), changed AS (
      SELECT message.id, message.email_client_id, message.folder_id, message.is_read AS was_read,
             {_flags_of("message")} AS old, {_flags_of("fetched")} AS new, fetched.*
      FROM email_message AS message JOIN fetched ON message.imap_uid = fetched.uid
      WHERE message.tenant_id = :tenant_id AND message.folder_id = :folder_id AND message.uidvalidity = :uidvalidity
        AND (message.is_read, message.is_starred, message.is_spam, message.is_not_spam, message.is_draft,
             message.is_sent, message.is_deleted, message.labels)
            IS DISTINCT FROM
            (fetched.is_read, fetched.is_starred, fetched.is_spam, fetched.is_not_spam, fetched.is_draft,
             fetched.is_sent, fetched.is_deleted, fetched.labels)
    ), updated AS (
      UPDATE email_message AS message
      SET is_read = changed.is_read, is_starred = changed.is_starred, is_spam = changed.is_spam,
          is_not_spam = changed.is_not_spam, is_draft = changed.is_draft, is_sent = changed.is_sent,
          is_deleted = changed.is_deleted, labels = changed.labels
      FROM changed WHERE message.tenant_id = :tenant_id AND message.id = changed.id
    ), told AS (
      {INSERT_EVENTS}
      SELECT :tenant_id, email_client_id, 'message.updated', jsonb_build_object(
        'email_message_id', id, 'folder_id', folder_id,
        'changes', (SELECT jsonb_object_agg(key, value) FROM jsonb_each(new) WHERE value <> old->key)
      )
      FROM changed WHERE :is_told
    )
    SELECT count(*), coalesce(sum(was_read::int - is_read::int), 0) FROM changed
    """
)

_REMOVE = """
    WITH quarantined AS (
      DELETE FROM raw_quarantine WHERE tenant_id = :tenant_id AND folder_id = :folder_id AND {which}
    ), removed AS (
      DELETE FROM email_message WHERE tenant_id = :tenant_id AND folder_id = :folder_id AND {which}
      RETURNING id, email_client_id, folder_id, is_read
    ), told AS (
      {INSERT_EVENTS}
      SELECT :tenant_id, email_client_id, 'message.deleted',
             jsonb_build_object('email_message_id', id, 'folder_id', folder_id)
      FROM removed WHERE :is_told
    )
    SELECT count(*), count(*) FILTER (WHERE NOT is_read) FROM removed
    """
_NAMED = "uidvalidity = :uidvalidity AND imap_uid <@ CAST(:uids AS int8multirange)"
_ABSENT = "uidvalidity = :uidvalidity AND imap_uid < :below AND NOT imap_uid <@ CAST(:uids AS int8multirange)"
_REMOVE_NAMED = text(_REMOVE.format(which=_NAMED, INSERT_EVENTS=INSERT_EVENTS))
_REMOVE_ABSENT = text(_REMOVE.format(which=_ABSENT, INSERT_EVENTS=INSERT_EVENTS))
_UNNUMBERED = "(uidvalidity <> :uidvalidity OR imap_uid < 0)"
_REMOVE_UNNUMBERED = text(_REMOVE.format(which=_UNNUMBERED, INSERT_EVENTS=INSERT_EVENTS))
_COUNT_UNNUMBERED = text(
    f"SELECT count(*) FROM email_message WHERE tenant_id = :tenant_id AND folder_id = :folder_id AND {_UNNUMBERED}"
)

_COUNT = text(
    """
    UPDATE email_folder SET total_count = total_count + :total, unread_count = unread_count + :unread
    WHERE tenant_id = :tenant_id AND id = :folder_id
    """
)

_RECOUNT = text(
    """
    UPDATE email_folder AS folder SET total_count = counted.total, unread_count = counted.unread
    FROM (
      SELECT count(*) AS total, count(*) FILTER (WHERE NOT is_read) AS unread FROM email_message
      WHERE tenant_id = :tenant_id AND folder_id = :folder_id
    ) AS counted
    WHERE folder.tenant_id = :tenant_id AND folder.id = :folder_id
      AND (folder.total_count, folder.unread_count) IS DISTINCT FROM (counted.total, counted.unread)
    """
)

_ACCOUNTED_FOR = """
    SELECT imap_uid FROM email_message
    WHERE tenant_id = :tenant_id AND folder_id = :folder_id AND uidvalidity = :uidvalidity AND imap_uid >= :first
    UNION ALL
    SELECT imap_uid FROM raw_quarantine
    WHERE tenant_id = :tenant_id AND folder_id = :folder_id AND uidvalidity = :uidvalidity AND imap_uid >= :first
    """
_ACCOUNTED_RANGES = f"""
    SELECT coalesce(range_agg(int8range(imap_uid, imap_uid, '[]')), '{{}}') FROM ({_ACCOUNTED_FOR}) AS accounted_for
    """
# Multiranges are passed as text, because the driver does not know them.
_MISSING = text(f"SELECT CAST(CAST(:uids AS int8multirange) - ({_ACCOUNTED_RANGES}) AS text)")
_STORED = text(f"SELECT CAST(CAST(:uids AS int8multirange) * ({_ACCOUNTED_RANGES}) AS text)")
_NOT_NAMED = text(
    f"""
    SELECT CAST(({_ACCOUNTED_RANGES}) * int8multirange(int8range(0, :below)) - CAST(:uids AS int8multirange) AS text)
    """
)
_LOWEST = text(f"SELECT min(imap_uid) FROM ({_ACCOUNTED_FOR}) AS accounted_for")

_ENVELOPES = text(
    """
    SELECT imap_uid, message_id, size, received_at FROM email_message
    WHERE tenant_id = :tenant_id AND folder_id = :folder_id AND uidvalidity = :uidvalidity
      AND imap_uid = ANY(CAST(:uids AS bigint[]))
    """
)
_NEWEST = text(
    """
    SELECT imap_uid, message_id, size, received_at FROM email_message
    WHERE tenant_id = :tenant_id AND folder_id = :folder_id AND uidvalidity = :uidvalidity AND imap_uid > 0
    ORDER BY imap_uid DESC LIMIT :number
    """
)

_FORGET_QUARANTINED = text(
    """
    DELETE FROM raw_quarantine
    WHERE tenant_id = :tenant_id AND folder_id = :folder_id
      AND created_at < coalesce(to_timestamp(:before), 'infinity')
    """
)

_RELEASE_QUARANTINED = text(
    """
    DELETE FROM raw_quarantine
    WHERE tenant_id = :tenant_id AND email_client_id = :account_id AND reason IN ('refused', 'undeliverable')
      AND created_at < now() - make_interval(hours => :hours)
    """
)

_STAGE_ENVELOPES = """
    CREATE TEMPORARY TABLE stage_envelope (
      uid bigint NOT NULL, message_id text, size bigint NOT NULL, received_at timestamptz
    ) ON COMMIT DROP
    """
# The UIDs of these messages belong to other messages now. They get negative UIDs until their own are found, which
# collide with nothing: below the negative UIDs of messages that were set apart before and may be outside of a window.
_SET_APART = text(
    """
    UPDATE email_message SET imap_uid = least(0, (
      SELECT min(imap_uid) FROM email_message
      WHERE tenant_id = :tenant_id AND folder_id = :folder_id AND uidvalidity = :uidvalidity
    )) - imap_uid
    WHERE tenant_id = :tenant_id AND folder_id = :folder_id AND uidvalidity = :uidvalidity
      AND imap_uid = ANY(CAST(:uids AS bigint[]))
    """
)
# Messages with the same Message-ID, size and date are copies of one mail, and are paired in order. Without a
# Message-ID, size and date must be unique on both sides, because two such messages may be different mails.
_MOVE_TO_NEW_UIDS = text(
    """
    WITH old AS (
      SELECT id, message_id, size, date_trunc('second', received_at) AS received_at,
             row_number() OVER (alike ORDER BY abs(imap_uid)) AS ordinal, count(*) OVER alike AS alike
      FROM email_message
      WHERE tenant_id = :tenant_id AND folder_id = :folder_id AND (uidvalidity <> :uidvalidity OR imap_uid < 0)
      WINDOW alike AS (PARTITION BY message_id, size, date_trunc('second', received_at))
    ), new AS (
      SELECT uid, message_id, size, received_at,
             row_number() OVER same AS ordinal, count(*) OVER (PARTITION BY message_id, size, received_at) AS alike
      FROM stage_envelope
      WHERE NOT EXISTS (
        SELECT FROM email_message
        WHERE tenant_id = :tenant_id AND folder_id = :folder_id AND uidvalidity = :uidvalidity AND imap_uid = uid
      )
      WINDOW same AS (PARTITION BY message_id, size, received_at ORDER BY uid)
    )
    UPDATE email_message AS message SET uidvalidity = :uidvalidity, imap_uid = new.uid
    FROM old JOIN new
      ON coalesce(old.message_id, '') = coalesce(new.message_id, '') AND old.size = new.size
     AND coalesce(old.received_at, '-infinity') = coalesce(new.received_at, '-infinity')
     AND old.ordinal = new.ordinal
     AND (old.message_id IS NOT NULL OR (old.alike = 1 AND new.alike = 1))
    WHERE message.tenant_id = :tenant_id AND message.id = old.id
    """
)


class Envelope(NamedTuple):
    """What identifies a message whose UID changed."""

    uid: int
    message_id: str | None
    size: int
    received_at: datetime | None


def update_flags(connection: Connection, account: Account, folder: Folder, flags: Sequence[tuple[int, Flags]]) -> int:
    """Set the flags of messages by UID. Returns how many rows differed."""
    if not flags:
        return 0
    columns = zip(*(state for _, state in flags), strict=True)
    values: dict[str, object] = dict(zip(_FLAGS, map(list, columns), strict=True))
    # Labels are joined by a character that no label has, because PostgreSQL's arrays of arrays must be rectangular.
    values["labels"] = ["\x1f".join(state.labels) for _, state in flags]
    key = _key(account, folder)
    values |= {"uids": [uid for uid, _ in flags], "is_told": account.has_synced}
    changed, unread = connection.execute(_UPDATE_FLAGS, {**key, **values}).one()
    _count(connection, key, 0, unread)
    return int(changed)


def remove_uids(connection: Connection, account: Account, folder: Folder, uids: UidSet) -> int:
    """Remove messages that are gone from the server. Returns how many were stored."""
    if not uids.ranges:
        return 0
    values = {"uids": uids.to_multirange(), "is_told": account.has_synced}
    return _remove(connection, _REMOVE_NAMED, _key(account, folder), values)


def remove_absent(connection: Connection, account: Account, folder: Folder, present: UidSet, below: int) -> int:
    """Remove messages whose UID is below `below` and not in `present`. Returns how many."""
    values = {"uids": present.to_multirange(), "below": below, "is_told": account.has_synced}
    return _remove(connection, _REMOVE_ABSENT, _key(account, folder), values)


def missing_uids(connection: Connection, account: Account, folder: Folder, on_server: UidSet, first: int) -> UidSet:
    """The UIDs in `on_server` (all at or above `first`) that are neither stored nor in quarantine."""
    values = {"uids": on_server.to_multirange(), "first": first}
    return UidSet.from_multirange(str(connection.scalar(_MISSING, {**_key(account, folder), **values})))


def stored_uids(connection: Connection, account: Account, folder: Folder, on_server: UidSet) -> UidSet:
    """The UIDs in `on_server` that are stored or in quarantine."""
    values = {"uids": on_server.to_multirange(), "first": 0}
    return UidSet.from_multirange(str(connection.scalar(_STORED, {**_key(account, folder), **values})))


def envelopes(connection: Connection, account: Account, folder: Folder, uids: Sequence[int]) -> list[Envelope]:
    """The envelopes of the messages that are stored under these UIDs."""
    rows = connection.execute(_ENVELOPES, {**_key(account, folder), "uids": list(uids)})
    return [Envelope._make(row) for row in rows]


def absent_uids(connection: Connection, account: Account, folder: Folder, on_server: UidSet, below: int) -> UidSet:
    """The stored or quarantined UIDs below `below` that are not in `on_server`."""
    values = {"uids": on_server.to_multirange(), "below": below, "first": 0}
    return UidSet.from_multirange(str(connection.scalar(_NOT_NAMED, {**_key(account, folder), **values})))


def lowest_uid(connection: Connection, account: Account, folder: Folder) -> int:
    """The lowest UID that is stored or quarantined; 0 where there is none."""
    return int(connection.scalar(_LOWEST, {**_key(account, folder), "first": 0}) or 0)


def newest(connection: Connection, account: Account, folder: Folder, number: int) -> list[Envelope]:
    """The envelopes of the messages with the highest UIDs."""
    rows = connection.execute(_NEWEST, {**_key(account, folder), "number": number})
    return [Envelope._make(row) for row in rows]


def forget_quarantined(connection: Connection, account: Account, folder: Folder, before: float | None = None) -> None:
    """Remove messages from quarantine, so that they count as missing and are fetched again: those quarantined before
    that Unix time by PostgreSQL's clock, or all."""
    values = {"tenant_id": account.tenant_id, "folder_id": folder.id, "before": before}
    connection.execute(_FORGET_QUARANTINED, values)


def recount(connection: Connection, account: Account, folder: Folder) -> None:
    """Count the folder's messages anew and store the counts."""
    connection.execute(_RECOUNT, {"tenant_id": account.tenant_id, "folder_id": folder.id})


def release_quarantined(connection: Connection, account: Account, hours: int) -> None:
    """Remove messages that the server refused to give from quarantine
    after so many hours, so that they are asked for again."""
    connection.execute(
        _RELEASE_QUARANTINED, {"tenant_id": account.tenant_id, "account_id": account.id, "hours": hours}
    )


def begin_renumbering(connection: Connection) -> None:
    """Prepare the temporary table for the envelopes of a folder, for this transaction."""
    connection.exec_driver_sql(_STAGE_ENVELOPES)


def add_envelopes(connection: Connection, envelopes: Sequence[Envelope]) -> None:
    """Add envelopes of messages with the UIDs that they have on the server now."""
    rows = [
        (
            wire.bigint(envelope.uid),
            wire.text(envelope.message_id),
            wire.bigint(envelope.size),
            wire.timestamptz(envelope.received_at),
        )
        for envelope in envelopes
    ]
    copy.copy_into(connection, "stage_envelope", Envelope._fields, rows)


def set_apart(connection: Connection, account: Account, folder: Folder, uids: Sequence[int]) -> None:
    """Take their UIDs from the messages that are stored under
    these UIDs; `finish_renumbering` looks for the right ones."""
    connection.execute(_SET_APART, {**_key(account, folder), "uids": list(uids)})


def finish_renumbering(
    connection: Connection, account: Account, folder: Folder, uidvalidity: int, *, removes: bool
) -> int:
    """Give messages of another UIDVALIDITY, and those set apart, their new UIDs.

    With `removes`, the messages for which no UID was found are removed. Returns how many. One event tells of all.
    """
    key = {**_key(account, folder), "uidvalidity": uidvalidity}
    moved = connection.execute(_MOVE_TO_NEW_UIDS, key).rowcount
    removed = _remove(connection, _REMOVE_UNNUMBERED, key, {"is_told": False}) if removes else 0
    if account.has_synced and moved + removed:
        change = {"folder_id": folder.id, "messages": moved, "messages_deleted": removed}
        tell(connection, account.tenant_id, account.id, EventType.FOLDER_RENUMBERED, change)
    return removed


def remove_unnumbered(connection: Connection, account: Account, folder: Folder, uidvalidity: int) -> int:
    """Remove the messages for which `finish_renumbering` found no UID and that it left. Returns how many."""
    key = {**_key(account, folder), "uidvalidity": uidvalidity}
    return _remove(connection, _REMOVE_UNNUMBERED, key, {"is_told": account.has_synced})


def count_unnumbered(connection: Connection, account: Account, folder: Folder) -> int:
    """How many messages have no UID because `finish_renumbering` found none and they were not removed."""
    return int(connection.scalar(_COUNT_UNNUMBERED, _key(account, folder)) or 0)


def _remove(connection: Connection, statement: TextClause, key: dict[str, object], values: dict[str, object]) -> int:
    removed, unread = connection.execute(statement, {**key, **values}).one()
    _count(connection, key, -removed, -unread)
    return int(removed)


def _count(connection: Connection, key: dict[str, object], total: int, unread: int) -> None:
    if total or unread:
        connection.execute(_COUNT, {**key, "total": total, "unread": unread})


def _key(account: Account, folder: Folder) -> dict[str, object]:
    return {"tenant_id": account.tenant_id, "folder_id": folder.id, "uidvalidity": folder.uidvalidity}
