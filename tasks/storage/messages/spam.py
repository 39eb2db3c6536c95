"""Reads stored messages for the spam check, and stores verdicts."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection, text

from tasks.mail.kinds import FolderType
from tasks.mail.message import Address, Attachment, ParsedMessage
from tasks.mail.spam.evidence import CONTENT_LIMIT
from tasks.mail.spam.verdict import Verdict
from tasks.storage.events import INSERT_EVENTS

# Folders with the account's own mail, sent or being written, which is not checked.
OWN_FOLDERS = (FolderType.SENT, FolderType.DRAFTS)


class StoredMessage(NamedTuple):
    """A stored message, the account that it came to, and whether user or server called it spam.

    `message` is like the parser's result, without the fields
    for threading; contents of files are cut at CONTENT_LIMIT.
    """

    id: str
    email_address: str
    hostname: str
    is_spam: bool
    is_not_spam: bool
    message: ParsedMessage


_MESSAGES = text(
    """
    SELECT message.id, client.email_address, client.hostname, message.is_spam, message.is_not_spam,
           message.message_id, message.from_addresses, message.to_addresses, message.cc_addresses,
           message.bcc_addresses, message.reply_to_addresses, message.subject, message.sent_at, message.text_body,
           message.html_body, message.headers
    FROM email_message AS message
    JOIN email_client AS client ON client.tenant_id = message.tenant_id AND client.id = message.email_client_id
    WHERE message.tenant_id = :tenant_id AND message.id = ANY(:ids) AND client.user_id = :user_id
    """
)
_ATTACHMENTS = text(
    """
    SELECT attachment.email_message_id, attachment.filename, attachment.mime_type,
           substring(blob.content FROM 1 FOR :limit), attachment.content_id, attachment.is_inline
    FROM email_attachment AS attachment
    JOIN blob ON blob.tenant_id = attachment.tenant_id AND blob.sha256 = attachment.storage_key
    WHERE attachment.tenant_id = :tenant_id AND attachment.email_message_id = ANY(:ids)
    ORDER BY attachment.email_message_id, attachment.position
    """
)
# A verdict needs no lease. So the account's row is locked, whether or not its first sync is done: the end of a first
# sync, whose event stands for all that was before it, waits for this transaction, or this transaction waits for that
# and tells. The messages come first, as in a sync, so that neither waits for what the other holds.
_SAVE = text(
    f"""
    WITH changed AS (
      UPDATE email_message AS message
      SET spam_score = checked.score, spam_indicators = checked.indicators
      FROM unnest(CAST(:ids AS text[]), CAST(:scores AS real[]), CAST(:indicators AS jsonb[]))
           AS checked (id, score, indicators)
      WHERE message.tenant_id = :tenant_id AND message.id = checked.id
        AND (message.spam_score, message.spam_indicators) IS DISTINCT FROM (checked.score, checked.indicators)
      RETURNING message.id, message.email_client_id, message.folder_id, message.spam_score
    ), account AS (
      SELECT id, last_sync_at FROM email_client
      WHERE tenant_id = :tenant_id AND id = ANY(ARRAY(SELECT email_client_id FROM changed))
      FOR SHARE
    )
    {INSERT_EVENTS}
    SELECT :tenant_id, changed.email_client_id, 'message.updated', jsonb_build_object(
      'email_message_id', changed.id, 'folder_id', changed.folder_id,
      'changes', jsonb_build_object('spam_score', changed.spam_score)
    )
    FROM changed JOIN account ON account.id = changed.email_client_id
    WHERE account.last_sync_at IS NOT NULL
    """
)
# Messages of the last days about which not all engines have been asked, the newest first.
_WITHOUT_OPINION = text(
    """
    SELECT message.id
    FROM email_folder AS folder JOIN email_message AS message
      ON message.tenant_id = folder.tenant_id AND message.folder_id = folder.id
    WHERE folder.tenant_id = :tenant_id AND folder.email_client_id = :account_id AND folder.type <> ALL(:own)
      AND (message.received_at > now() - make_interval(days => :days)
           OR message.received_at IS NULL AND message.filed_at > now() - make_interval(days => :days))
      AND message.spam_score IS NOT NULL
      AND NOT message.spam_indicators @> CAST(:asked AS jsonb)
    ORDER BY message.received_at DESC NULLS FIRST
    LIMIT :limit
    """
)


def load_messages(connection: Connection, tenant_id: str, user_id: str, ids: Sequence[str]) -> list[StoredMessage]:
    """Those messages with these ids that are the caller's, in no order."""
    rows = connection.execute(_MESSAGES, {"tenant_id": tenant_id, "user_id": user_id, "ids": list(ids)}).all()
    found = {"tenant_id": tenant_id, "ids": [row.id for row in rows], "limit": CONTENT_LIMIT}
    attachments: dict[str, list[Attachment]] = {}
    for message_id, filename, mime_type, content, content_id, is_inline in connection.execute(_ATTACHMENTS, found):
        attachment = Attachment(filename, mime_type, bytes(content), content_id, is_inline)
        attachments.setdefault(message_id, []).append(attachment)
    return [_stored(row, attachments.get(row.id, [])) for row in rows]


def save_verdicts(connection: Connection, tenant_id: str, verdicts: Sequence[tuple[str, Verdict]]) -> None:
    """Store verdicts by the ids of their messages."""
    indicators = [[indicator._asdict() for indicator in verdict.indicators] for _, verdict in verdicts]
    connection.execute(
        _SAVE,
        {
            "tenant_id": tenant_id,
            "ids": [message_id for message_id, _ in verdicts],
            "scores": [verdict.score for _, verdict in verdicts],
            "indicators": [orjson.dumps(found).decode() for found in indicators],
        },
    )


def without_opinion(
    connection: Connection, tenant_id: str, account_id: str, engines: Sequence[str], days: int, limit: int
) -> list[str]:
    """Messages of the account's last `days` about which not all `engines` were asked."""
    asked = orjson.dumps([{"rule": engine} for engine in engines]).decode()
    values = {"tenant_id": tenant_id, "account_id": account_id, "own": list(OWN_FOLDERS), "asked": asked}
    return list(connection.scalars(_WITHOUT_OPINION, {**values, "days": days, "limit": limit}))


def _stored(row: Any, attachments: list[Attachment]) -> StoredMessage:
    sent_at: datetime | None = row.sent_at
    message = ParsedMessage(
        message_id=row.message_id,
        in_reply_to=(),
        references=(),
        from_=_addresses(row.from_addresses),
        to=_addresses(row.to_addresses),
        cc=_addresses(row.cc_addresses),
        bcc=_addresses(row.bcc_addresses),
        reply_to=_addresses(row.reply_to_addresses),
        subject=row.subject,
        date=sent_at,
        text_body=row.text_body,
        html_body=row.html_body,
        headers=row.headers,
        attachments=tuple(attachments),
    )
    return StoredMessage(row.id, row.email_address, row.hostname, row.is_spam, row.is_not_spam, message)


def _addresses(stored: list[dict[str, str]]) -> tuple[Address, ...]:
    return tuple(Address(each["name"], each["address"]) for each in stored)
