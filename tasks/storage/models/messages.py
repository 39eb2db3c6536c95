"""The tables of folders, of messages and of what belongs to a message."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    REAL,
    BigInteger,
    CheckConstraint,
    ForeignKeyConstraint,
    Index,
    PrimaryKeyConstraint,
    SmallInteger,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from tasks.mail.kinds import FolderType
from tasks.storage.models.base import (
    EMPTY_ARRAY,
    EMPTY_LIST,
    FALSE,
    NOW,
    NUMBERED,
    TRUE,
    ZERO,
    Base,
    in_its_folder,
    one_of,
    one_uidl_an_account,
)

# Why messages of a folder may be missing; `storage.messages.completeness` has words for people.
MISSING_REASONS = ("search", "withheld", "window", "listing", "refused")
REREAD_OUTCOMES = ("gone", "other", "unreadable")


class EmailFolder(Base):
    """A folder and its sync state (RFC 9051 section 2.3.1, RFC 7162).

    A folder that `is_view` shows messages of other folders a second time. `path` is the name exactly as the server
    writes it, `name` is the name for people. Every message with a UID below `uidnext` is stored or quarantined;
    `highestmodseq` is the state up to which flags and removals are known; `verified_at` is when all UIDs and flags
    were last compared one by one. `mailbox_id` is the folder's identifier on the server, which outlives its name (RFC
    8474), where there is one. `suspect_uid` (on POP3 `suspect_uidl`) is the message at which the connection broke
    last, and `suspect_attempts` how often in a row the connection broke there. The folders of a POP3 account are
    known here alone, and have no UIDVALIDITY.

    At the end of its last sync the server said that it has `server_count` messages. `missing_count` of them are
    neither stored nor quarantined, because of `missing_reason`, and are looked for again at `missing_again_at`. A
    reason without a count means that nobody can tell how many. Some servers show only the `window_size` newest
    messages (`engine.sync.completeness`); `hidden_count` stored messages are outside of that window.
    """

    __tablename__ = "email_folder"
    tenant_id: Mapped[str]
    id: Mapped[str]
    email_client_id: Mapped[str]
    path: Mapped[str]
    name: Mapped[str]
    delimiter: Mapped[str | None]
    type: Mapped[str]
    is_selectable: Mapped[bool] = mapped_column(server_default=TRUE)
    is_view: Mapped[bool] = mapped_column(server_default=FALSE)
    unread_count: Mapped[int] = mapped_column(server_default=ZERO)
    total_count: Mapped[int] = mapped_column(server_default=ZERO)
    uidvalidity: Mapped[int | None] = mapped_column(BigInteger)
    uidnext: Mapped[int] = mapped_column(BigInteger, server_default=text("1"))
    highestmodseq: Mapped[int | None] = mapped_column(BigInteger)
    mailbox_id: Mapped[str | None]
    suspect_uid: Mapped[int | None] = mapped_column(BigInteger)
    suspect_uidl: Mapped[str | None]
    suspect_attempts: Mapped[int] = mapped_column(server_default=ZERO)
    verified_at: Mapped[datetime | None]
    synced_at: Mapped[datetime | None]
    server_count: Mapped[int | None]
    window_size: Mapped[int | None]
    hidden_count: Mapped[int] = mapped_column(server_default=ZERO)
    missing_count: Mapped[int] = mapped_column(server_default=ZERO)
    missing_reason: Mapped[str | None]
    missing_again_at: Mapped[datetime | None]
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "id"),
        CheckConstraint(one_of("missing_reason", MISSING_REASONS), "missing_reason"),
        UniqueConstraint("tenant_id", "email_client_id", "id"),
        UniqueConstraint("tenant_id", "email_client_id", "path"),
        ForeignKeyConstraint(
            ["tenant_id", "email_client_id"], ["email_client.tenant_id", "email_client.id"], ondelete="CASCADE"
        ),
        CheckConstraint(one_of("type", FolderType), "type"),
    )


class EmailMessage(Base):
    """One message in one folder: one row per (folder, uidvalidity, uid), or on POP3 per (account, uidl).

    `received_at` is the server's INTERNALDATE, `sent_at` the Date header, `size`
    RFC822.SIZE, `filed_at` the time at which the workers first saw the message in its
    folder. Addresses are lists of {name, address}; `headers` maps a name to all its values.

    `is_spam` and `is_not_spam` are the word of the user or the server (a keyword, or the folder). `spam_score` (0 to
    1, NULL: not checked) and `spam_indicators` (a list of {rule, weight, detail}) are the result of the spam check.
    The two pairs never change each other. `parser_version` is the version of the parser that read the message
    (`mail.message.PARSER_VERSION`).
    """

    __tablename__ = "email_message"
    tenant_id: Mapped[str]
    id: Mapped[str]
    email_client_id: Mapped[str]
    folder_id: Mapped[str]
    uidvalidity: Mapped[int | None] = mapped_column(BigInteger)
    imap_uid: Mapped[int | None] = mapped_column(BigInteger)
    uidl: Mapped[str | None]
    message_id: Mapped[str | None]
    conversation_id: Mapped[str | None]
    from_addresses: Mapped[list[dict[str, str]]] = mapped_column(server_default=EMPTY_LIST)
    to_addresses: Mapped[list[dict[str, str]]] = mapped_column(server_default=EMPTY_LIST)
    cc_addresses: Mapped[list[dict[str, str]]] = mapped_column(server_default=EMPTY_LIST)
    bcc_addresses: Mapped[list[dict[str, str]]] = mapped_column(server_default=EMPTY_LIST)
    reply_to_addresses: Mapped[list[dict[str, str]]] = mapped_column(server_default=EMPTY_LIST)
    subject: Mapped[str]
    text_body: Mapped[str | None]
    html_body: Mapped[str | None]
    headers: Mapped[dict[str, Any]]
    received_at: Mapped[datetime | None]
    sent_at: Mapped[datetime | None]
    is_read: Mapped[bool] = mapped_column(server_default=FALSE)
    is_starred: Mapped[bool] = mapped_column(server_default=FALSE)
    is_spam: Mapped[bool] = mapped_column(server_default=FALSE)
    is_not_spam: Mapped[bool] = mapped_column(server_default=FALSE)
    is_draft: Mapped[bool] = mapped_column(server_default=FALSE)
    is_sent: Mapped[bool] = mapped_column(server_default=FALSE)
    is_deleted: Mapped[bool] = mapped_column(server_default=FALSE)
    labels: Mapped[list[str]] = mapped_column(server_default=EMPTY_ARRAY)
    attachment_count: Mapped[int] = mapped_column(server_default=ZERO)
    size: Mapped[int] = mapped_column(BigInteger)
    filed_at: Mapped[datetime] = mapped_column(server_default=NOW)
    spam_score: Mapped[float | None] = mapped_column(REAL)
    spam_indicators: Mapped[list[dict[str, Any]]] = mapped_column(JSONB(), server_default=EMPTY_LIST)
    # The default is the first parser, because a worker of a release without this column leaves it out.
    parser_version: Mapped[int] = mapped_column(SmallInteger, server_default=text("1"))
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "id"),
        CheckConstraint("spam_score BETWEEN 0 AND 1", "spam_score"),
        UniqueConstraint("tenant_id", "folder_id", "uidvalidity", "imap_uid"),
        one_uidl_an_account("email_message"),
        in_its_folder(),
        CheckConstraint(NUMBERED, "numbered"),
        Index("email_message_message_id_idx", "message_id", "email_client_id"),
        Index("email_message_conversation_idx", "conversation_id", "email_client_id"),
        Index("email_message_received_idx", "folder_id", "received_at"),
    )


class Rereading(Base):
    """A message that is to be read again by the parser `parser_version` or a later one.

    Afterwards the row is deleted.

    If the message cannot be read again, `outcome` says why, and the message is not asked for again: `gone` from the
    server, `other` (its UID belongs to another message now) or `unreadable` (the server refuses the message, or the
    parser cannot read it). `detail` is for people. `attempts` counts the runs that could not fetch the message.
    """

    __tablename__ = "rereading"
    tenant_id: Mapped[str]
    email_message_id: Mapped[str]
    email_client_id: Mapped[str]
    parser_version: Mapped[int] = mapped_column(SmallInteger)
    attempts: Mapped[int] = mapped_column(server_default=ZERO)
    outcome: Mapped[str | None]
    detail: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "email_message_id"),
        ForeignKeyConstraint(
            ["tenant_id", "email_message_id"], ["email_message.tenant_id", "email_message.id"], ondelete="CASCADE"
        ),
        CheckConstraint(one_of("outcome", REREAD_OUTCOMES), "outcome"),
        # Waiting messages of an account: the newest first, and after them those that runs could not fetch.
        Index(
            "rereading_waiting_idx",
            "tenant_id",
            "email_client_id",
            "attempts",
            text("email_message_id DESC"),
            postgresql_where=text("outcome IS NULL"),
        ),
    )


class Blob(Base):
    """Content by its SHA-256 (hexadecimal), stored once however many messages carry it."""

    __tablename__ = "blob"
    tenant_id: Mapped[str]
    sha256: Mapped[str]
    size: Mapped[int] = mapped_column(BigInteger)
    content: Mapped[bytes]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "sha256"),
        CheckConstraint("tenant_id <> ''", "tenant_id"),
    )


class EmailAttachment(Base):
    """A file in a message; `storage_key` is the SHA-256 of its content in `blob`."""

    __tablename__ = "email_attachment"
    tenant_id: Mapped[str]
    id: Mapped[str]
    email_message_id: Mapped[str]
    position: Mapped[int]
    filename: Mapped[str | None]
    mime_type: Mapped[str]
    size: Mapped[int] = mapped_column(BigInteger)
    content_id: Mapped[str | None]
    is_inline: Mapped[bool]
    storage_key: Mapped[str]
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "id"),
        UniqueConstraint("tenant_id", "email_message_id", "position"),
        ForeignKeyConstraint(
            ["tenant_id", "email_message_id"], ["email_message.tenant_id", "email_message.id"], ondelete="CASCADE"
        ),
        ForeignKeyConstraint(["tenant_id", "storage_key"], ["blob.tenant_id", "blob.sha256"]),
        Index("email_attachment_blob_idx", "tenant_id", "storage_key"),
    )


class RawQuarantine(Base):
    """A message that could not be stored, with its bytes where the server gave any and the reason.

    A quarantined message is not missing, so it never blocks its folder; a full sync tries it again.
    """

    __tablename__ = "raw_quarantine"
    tenant_id: Mapped[str]
    id: Mapped[str]
    email_client_id: Mapped[str]
    folder_id: Mapped[str]
    uidvalidity: Mapped[int | None] = mapped_column(BigInteger)
    imap_uid: Mapped[int | None] = mapped_column(BigInteger)
    uidl: Mapped[str | None]
    reason: Mapped[str]
    detail: Mapped[str]
    size: Mapped[int] = mapped_column(BigInteger)
    raw: Mapped[bytes | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "id"),
        UniqueConstraint("tenant_id", "folder_id", "uidvalidity", "imap_uid"),
        one_uidl_an_account("raw_quarantine"),
        in_its_folder(),
        CheckConstraint(NUMBERED, "numbered"),
    )
