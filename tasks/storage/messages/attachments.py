"""Reads stored attachments with their content."""

from collections.abc import Sequence

from sqlalchemy import Connection, text

from tasks.errors import NotFoundError
from tasks.mail.message import Attachment
from tasks.storage.accounts.rows import Account

# Attachments of the user, not only of the tenant: users of a tenant do not see each other's mail.
_FILES = """
    email_attachment AS file
    JOIN email_message AS message ON message.tenant_id = file.tenant_id AND message.id = file.email_message_id
    JOIN email_client AS client ON client.tenant_id = message.tenant_id AND client.id = message.email_client_id
"""
_OWN = "file.tenant_id = :tenant_id AND client.user_id = :user_id"

# Base64 makes four bytes of three, except for attached messages, which may go unencoded.
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
    """How many bytes these attachments take in a message at least, without loading them.

    An id given twice counts twice.

    An attachment of another user counts as nothing.
    """
    values = {"tenant_id": account.tenant_id, "user_id": account.user_id, "ids": list(ids)}
    return int(connection.execute(_MEASURE, values).scalar_one()) if ids else 0


def load_attachments(connection: Connection, account: Account, ids: Sequence[str]) -> tuple[Attachment, ...]:
    """The attachments with these ids, in this order.

    Raises NotFoundError if an attachment is not of the account's user.
    """
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
