"""Folders, messages and attachments, read by the views that docs/application.md describes; answers."""

import base64
import html
import json
import re
from typing import Any
from urllib.parse import unquote

from sqlalchemy import Connection

from database import rows

_FOLDERS = """
    SELECT id, name, type, unread_count, total_count, email_address FROM folder_view
    WHERE user_id = :user AND is_selectable AND NOT is_view
    ORDER BY email_address, type <> 'inbox', type = 'custom', name
"""
_MESSAGES = """
    SELECT id, from_addresses, to_addresses, subject, received_at, is_read, is_starred, attachment_count
    FROM message_view WHERE user_id = :user AND folder_id = :folder AND NOT is_deleted
    ORDER BY received_at DESC NULLS LAST, id DESC LIMIT 50
"""
_MESSAGE = """
    SELECT id, email_client_id, folder_id, from_addresses, to_addresses, cc_addresses, reply_to_addresses, subject,
           text_body, html_body IS NOT NULL AS has_html, received_at, is_spam
    FROM message_view WHERE user_id = :user AND id = :message
"""
_ATTACHMENTS = """
    SELECT id, filename, size, is_inline FROM attachment_view WHERE email_message_id = :message ORDER BY position
"""
_ATTACHMENT = """
    SELECT filename, content FROM attachment_view AS attachment WHERE id = :attachment AND EXISTS (
        SELECT FROM message_view AS message WHERE message.id = email_message_id AND message.user_id = :user
    )
"""
_HTML = "SELECT html_body FROM message_view WHERE user_id = :user AND id = :message AND html_body IS NOT NULL"
_PICTURES = """
    SELECT content_id, mime_type, content FROM attachment_view
    WHERE email_message_id = :message AND is_inline AND size < 5000000
      AND mime_type IN ('image/png', 'image/gif', 'image/jpeg', 'image/webp')
"""
_SEND = """
    SELECT queue_task('send_email', CAST(:arguments AS jsonb) || jsonb_build_object('user_id', CAST(:user AS text)))
"""
# A picture of the mail itself, where an attribute or a style names it.
_CID = re.compile(r"cid:([^\"'\s)]+)")


def folders(connection: Connection) -> list[dict[str, Any]]:
    """The user's folders: INBOX first, then those with a purpose, then the others."""
    return rows(connection, _FOLDERS)


def messages(connection: Connection, folder: str) -> list[dict[str, Any]]:
    """The newest messages of a folder."""
    return rows(connection, _MESSAGES, folder=folder)


def message(connection: Connection, message_id: str) -> dict[str, Any] | None:
    """A message with its attachments; None where the user has no such message."""
    found = rows(connection, _MESSAGE, message=message_id)
    return {**found[0], "attachments": rows(connection, _ATTACHMENTS, message=message_id)} if found else None


def attachment(connection: Connection, attachment_id: str) -> dict[str, Any] | None:
    """An attachment's filename and content; None where the user has no such attachment."""
    return next(iter(rows(connection, _ATTACHMENT, attachment=attachment_id)), None)


def html_page(connection: Connection, message_id: str) -> str | None:
    """A message's HTML with its own pictures in it, for a frame that loads nothing; None where it has no HTML."""
    found = rows(connection, _HTML, message=message_id)
    if not found:
        return None
    pictures = {
        picture["content_id"]: f"data:{picture['mime_type']};base64,{base64.b64encode(picture['content']).decode()}"
        for picture in rows(connection, _PICTURES, message=message_id)
    }
    body = _CID.sub(lambda named: pictures.get(unquote(html.unescape(named[1])), named[0]), found[0]["html_body"])
    return f'<!doctype html><meta charset="utf-8"><base target="_blank"><div style="overflow:auto">{body}</div>'


def answer(connection: Connection, message_id: str, to: str, subject: str, body: str, key: str) -> bool:
    """Send an answer from the account that has the message. False where the user has no such message.

    The task is queued when the transaction commits, with whatever else it changes, and not at all if it does not.
    `key` names the answer: two calls with the same key send one mail.
    """
    answered = message(connection, message_id)
    if answered is None:
        return False
    of_mail = {"to": to, "subject": subject, "body_text": body, "idempotency_key": key}
    rows(connection, _SEND, arguments=json.dumps({"email_client_id": answered["email_client_id"], **of_mail}))
    return True
