"""Rereading: replaces in place what an older parser read from messages with what this parser reads.

Everything that is derived from the bytes of a message is replaced. The row keeps its id, place, flags, labels and
times of arrival, and its conversation if it has one. An attachment keeps its id where its content is the same (and
its name, where several have the same content). Everything happens in the caller's transaction, with a few statements
for any number of messages.
"""

from collections.abc import Mapping
from typing import NamedTuple

from sqlalchemy import Connection, text

from tasks.storage import copy, wire
from tasks.storage.accounts.rows import Account
from tasks.storage.events import tell
from tasks.storage.messages.arrivals import ATTACHMENT_COLUMNS, MESSAGE_COLUMNS, Arrival
from tasks.storage.messages.batch import store_blobs
from tasks.storage.messages.conversations import assign_conversations
from tasks.storage.states import EventType

_DERIVED = (
    "message_id", "from_addresses", "to_addresses", "cc_addresses", "bcc_addresses", "reply_to_addresses", "subject",
    "text_body", "html_body", "headers", "sent_at", "attachment_count", "size", "parser_version",
)  # fmt: skip

_STAGE_MESSAGES = f"""
    CREATE TEMPORARY TABLE stage_reading ON COMMIT DROP AS
    SELECT CAST('' AS text) AS target_id, {", ".join(MESSAGE_COLUMNS)} FROM email_message WHERE false
    """
_STAGE_ATTACHMENTS = f"""
    CREATE TEMPORARY TABLE stage_attachment ON COMMIT DROP AS
    SELECT CAST(NULL AS text) AS kept_id, {", ".join(ATTACHMENT_COLUMNS)} FROM email_attachment WHERE false
    """

# The rule by which a sync recognises a message (engine/envelopes.py): Message-ID where both
# readings have one, and size or date; else size and date. A date that was not read before is
# not compared, and the date of a Sent copy, which a worker wrote, has fractions of a second.
# On POP3 the unique-id identifies the message, and size and date are not the server's.
_REMOVE_OTHERS = text(
    """
    DELETE FROM stage_reading AS stage USING email_message AS message
    WHERE message.tenant_id = :tenant_id AND message.id = stage.target_id AND NOT CASE
      WHEN message.uidl IS NOT NULL THEN coalesce(message.message_id = stage.message_id, true)
      WHEN message.message_id IS NOT NULL AND stage.message_id IS NOT NULL THEN
        message.message_id = stage.message_id AND (
          message.size = stage.size OR coalesce(date_trunc('second', message.received_at) = stage.received_at, true)
        )
      ELSE message.size = stage.size
        AND coalesce(date_trunc('second', message.received_at) = stage.received_at, true)
    END
    RETURNING stage.target_id
    """
)
# A message without a conversation gets the conversation that it would have had on arrival.
_WITHOUT_CONVERSATION = text(
    """
    SELECT message.id FROM email_message AS message JOIN stage_reading AS stage ON message.id = stage.target_id
    WHERE message.tenant_id = :tenant_id AND message.conversation_id IS NULL
    """
)
_ASSIGN = text(
    """
    UPDATE email_message AS message SET conversation_id = assigned.conversation_id
    FROM unnest(CAST(:ids AS text[]), CAST(:conversations AS text[])) AS assigned (id, conversation_id)
    WHERE message.tenant_id = :tenant_id AND message.id = assigned.id
    """
)
# A message that was checked for spam keeps its score if the check is switched off now.
_REPLACE = text(
    f"""
    UPDATE email_message AS message
    SET {", ".join(f"{column} = stage.{column}" for column in _DERIVED)},
        received_at = coalesce(message.received_at, stage.received_at),
        spam_score = coalesce(stage.spam_score, message.spam_score),
        spam_indicators = CASE WHEN stage.spam_score IS NULL THEN message.spam_indicators
                               ELSE stage.spam_indicators END
    FROM stage_reading AS stage
    WHERE message.tenant_id = :tenant_id AND message.id = stage.target_id
    """
)

# The attachments of a message by its own id; those of a message that is not replaced are left out.
_ATTACH = text(
    """
    UPDATE stage_attachment AS attachment SET email_message_id = stage.target_id
    FROM stage_reading AS stage WHERE attachment.email_message_id = stage.id
    """
)
# Attachments with equal content and name are paired in order.
_KEEP_IDS = """
    WITH old AS (
      SELECT id, email_message_id, storage_key, filename, row_number() OVER (
        PARTITION BY email_message_id, storage_key{and_name} ORDER BY position
      ) AS ordinal
      FROM email_attachment AS attachment
      WHERE tenant_id = :tenant_id AND email_message_id IN (SELECT target_id FROM stage_reading)
        AND NOT EXISTS (SELECT FROM stage_attachment AS stage WHERE stage.kept_id = attachment.id)
    ), new AS (
      SELECT id, email_message_id, storage_key, filename, row_number() OVER (
        PARTITION BY email_message_id, storage_key{and_name} ORDER BY position
      ) AS ordinal
      FROM stage_attachment WHERE kept_id IS NULL
    )
    UPDATE stage_attachment AS stage SET kept_id = old.id
    FROM new JOIN old USING (email_message_id, storage_key, ordinal)
    WHERE stage.id = new.id {same_name}
    """
_KEEP_IDS_BY_NAME = text(
    _KEEP_IDS.format(and_name=", filename", same_name="AND old.filename IS NOT DISTINCT FROM new.filename")
)
_KEEP_IDS_BY_CONTENT = text(_KEEP_IDS.format(and_name="", same_name=""))
_REMOVE_ATTACHMENTS = text(
    """
    DELETE FROM email_attachment
    WHERE tenant_id = :tenant_id AND email_message_id IN (SELECT target_id FROM stage_reading)
    """
)
_INSERT_ATTACHMENTS = text(
    f"""
    INSERT INTO email_attachment (tenant_id, {", ".join(ATTACHMENT_COLUMNS)})
    SELECT :tenant_id, coalesce(kept_id, id), {", ".join(ATTACHMENT_COLUMNS[1:])} FROM stage_attachment
    WHERE email_message_id IN (SELECT target_id FROM stage_reading)
    """
)


class Replaced(NamedTuple):
    """The ids of messages whose row was replaced, and of messages whose UID belongs to another message now."""

    replaced: list[str]
    others: list[str]


def replace_readings(connection: Connection, account: Account, readings: Mapping[str, Arrival]) -> Replaced:
    """Replace the rows of messages, by id, with new readings."""
    if not readings:
        return Replaced([], [])
    key = {"tenant_id": account.tenant_id}
    _stage(connection, readings)
    others = list(connection.scalars(_REMOVE_OTHERS, key))
    same = {message_id: arrival for message_id, arrival in readings.items() if message_id not in set(others)}
    store_blobs(connection, account.tenant_id, list(same.values()))
    _assign_conversations(connection, account, same)
    connection.execute(_REPLACE, key)
    connection.execute(_ATTACH)
    for statement in (_KEEP_IDS_BY_NAME, _KEEP_IDS_BY_CONTENT, _REMOVE_ATTACHMENTS, _INSERT_ATTACHMENTS):
        connection.execute(statement, key)
    if same and account.has_synced:
        change = {"messages": len(same), "email_message_ids": list(same)}
        tell(connection, account.tenant_id, account.id, EventType.ACCOUNT_REREAD, change)
    return Replaced(list(same), others)


def _stage(connection: Connection, readings: Mapping[str, Arrival]) -> None:
    connection.exec_driver_sql(_STAGE_MESSAGES)
    connection.exec_driver_sql(_STAGE_ATTACHMENTS)
    copy.copy_into(
        connection,
        "stage_reading",
        ("target_id", *MESSAGE_COLUMNS),
        ((wire.text(message_id), arrival.row) for message_id, arrival in readings.items()),
    )
    copy.copy_into(
        connection,
        "stage_attachment",
        ATTACHMENT_COLUMNS,
        ((row,) for arrival in readings.values() for row in arrival.attachment_rows),
    )


def _assign_conversations(connection: Connection, account: Account, readings: Mapping[str, Arrival]) -> None:
    key = {"tenant_id": account.tenant_id}
    ids = list(connection.scalars(_WITHOUT_CONVERSATION, key))
    if ids:
        conversations = assign_conversations(connection, account, [readings[message_id] for message_id in ids])
        connection.execute(_ASSIGN, {**key, "ids": ids, "conversations": conversations})
