"""Attachments that are stored, with their content."""

from collections.abc import Sequence

from sqlalchemy import Connection, text

from tasks.errors import NotFoundError
from tasks.mail.message import Attachment
from tasks.storage.accounts.rows import Account

# Of the user, not only of the tenant: another user's mail is none of the caller's.
_FILES = """
    email_attachment AS file
    JOIN email_message AS message ON message.tenant_id = file.tenant_id AND message.id = file.email_message_id
    JOIN email_client AS client ON client.tenant_id = message.tenant_id AND client.id = message.email_client_id
"""
_OWN = "file.tenant_id = :tenant_id AND client.user_id = :user_id"

# Three bytes become four, but those of a message, which may go as they are.
_MEASURE = text(
    f"""
    SELECT coalesce(sum(CASE lower(file.mime_type) WHEN 'message/rfc822' THEN file.size
                        ELSE (file.size + 2) / 3 * 4 END), 0)
    FROM unnest(CAST(:ids AS text[])) AS wanted (id) JOIN ({_FILES}) ON file.id = wanted.id
    WHERE {_OWN}
    """
)
_LOAD = text(
    f"""
    SELECT file.id, file.filename, file.mime_type, blob.content, file.content_id, file.is_inline
    FROM {_FILES} JOIN blob ON blob.tenant_id = file.tenant_id AND blob.sha256 = file.storage_key
    WHERE {_OWN} AND file.id = ANY(:ids)
    """
)


def encoded_size(connection: Connection, account: Account, ids: Sequence[str]) -> int:
    """What attachments of these ids take in a message at least, each as often as it is named, without loading them.

    One that is not of the account's user takes nothing.
    """
    values = {"tenant_id": account.tenant_id, "user_id": account.user_id, "ids": list(ids)}
    return int(connection.execute(_MEASURE, values).scalar_one()) if ids else 0


def load_attachments(connection: Connection, account: Account, ids: Sequence[str]) -> tuple[Attachment, ...]:
    """The attachments of these ids, in their order. Raises NotFoundError if one is not of the account's user."""
    if not ids:
        return ()
    values = {"tenant_id": account.tenant_id, "user_id": account.user_id, "ids": list(ids)}
    found = {
        row.id: Attachment(row.filename, row.mime_type, bytes(row.content), row.content_id, row.is_inline)
        for row in connection.execute(_LOAD, values)
    }
    missing = [wanted for wanted in ids if wanted not in found]
    if missing:
        raise NotFoundError(f"attachment {missing[0]}")
    return tuple(found[wanted] for wanted in ids)
