"""Drafts: what a caller asks to send is checked and made into a message."""

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC
from typing import NamedTuple

from sqlalchemy import Connection, func, select

from tasks.errors import MessageInvalidError
from tasks.mail.compose.message import Draft, compose
from tasks.mail.compose.recipients import checked, mailboxes, unique
from tasks.mail.message import Address
from tasks.settings import get_settings
from tasks.storage.accounts.rows import Account
from tasks.storage.ids import new_id
from tasks.storage.messages.attachments import encoded_size, load_attachments
from tasks.storage.outbox import NewOutgoing, Outgoing, Recipient

_MAX_KEY_LENGTH = 255


class SendRequest(NamedTuple):
    """A draft and the account that sends it.

    Recipients are lists, or strings with commas, of `a@b` or `Name <a@b>`.
    """

    email_client_id: str
    tenant_id: str
    user_id: str
    to: str | Sequence[str]
    cc: str | Sequence[str] | None = None
    bcc: str | Sequence[str] | None = None
    subject: str = ""
    body_text: str = ""
    body_html: str | None = None
    attachment_ids: Sequence[str] | None = None

    def digest(self) -> str:
        """SHA-256 of the draft as the caller wrote it. The release before compares drafts by this digest alone."""
        return _sha256(self)

    def content_digest(self) -> str:
        """SHA-256 of the draft, the same for every way of writing the same content. Raises MessageInvalidError."""
        to, cc, bcc = self.mailboxes()
        text, html = self.body_text or "", self.body_html or None
        return _sha256([*self[:3], to, cc, bcc, self.subject or "", text, html, list(self.attachment_ids or ())])

    def asks_for(self, outgoing: Outgoing) -> bool:
        """Whether the message in the outbox was made from the same draft. Raises MessageInvalidError."""
        return outgoing.digest == self.digest() or outgoing.content_digest == self.content_digest()

    def mailboxes(self) -> tuple[tuple[Address, ...], ...]:
        """The recipients in To, Cc and Bcc. Raises MessageInvalidError."""
        return tuple(mailboxes(getattr(self, field), field) for field in ("to", "cc", "bcc"))


def make_message(connection: Connection, account: Account, request: SendRequest, key: str, owner: str) -> NewOutgoing:
    """The message as it enters the outbox: from here on its bytes, Message-ID and Date are fixed.

    Raises MessageInvalidError, and NotFoundError for an attachment that is not the caller's.
    """
    sender = checked(account.email_address, "the account's own address")
    to, cc, bcc = request.mailboxes()
    recipients = unique((to, cc, bcc))
    if len(key) > _MAX_KEY_LENGTH or not key.isprintable():
        raise MessageInvalidError(f"idempotency_key: not a text of at most {_MAX_KEY_LENGTH} printable characters")
    if not recipients:
        raise MessageInvalidError("it has no recipient")
    # The size is checked before the attachments are loaded, because a caller may name any number of them.
    _require_size(encoded_size(connection, account, request.attachment_ids or ()), "with its attachments at least ")
    attachments = load_attachments(connection, account, request.attachment_ids or ())
    draft = Draft(
        sender=Address("", sender),
        to=to,
        cc=cc,
        subject=request.subject or "",
        text=request.body_text or "",
        html=request.body_html or None,
        attachments=attachments,
    )
    message_id = f"{new_id()}@{sender.rpartition('@')[2]}"
    # In whole seconds like a Date field, and by PostgreSQL's clock, like the other times of the message.
    now = connection.execute(select(func.now())).scalar_one().astimezone(UTC).replace(microsecond=0)
    raw = compose(draft, message_id, now)
    _require_size(len(raw))
    return NewOutgoing(
        email_client_id=account.id,
        key=key,
        digest=request.digest(),
        content_digest=request.content_digest(),
        message_id=message_id,
        sender=sender,
        recipients=tuple(Recipient(address) for address in recipients),
        raw=raw,
        created_at=now,
        owner=owner,
    )


def _require_size(size: int, how: str = "") -> None:
    if size > (most := get_settings().send.max_message_bytes):
        raise MessageInvalidError(f"it has {how}{size:,} bytes, and SMTP_MAX_MESSAGE_BYTES is {most:,}")


def _sha256(values: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()
