"""The tables, as SQLAlchemy sees them. `migrations/` makes them; a test proves that the two are equal.

Every primary, unique and foreign key begins with tenant_id, so a row cannot even point into another tenant.
Row-level security is forced on all of them (see the first migration): without a tenant set for the transaction,
the application's role sees no rows. Times are timestamptz, sizes are bytes.
"""

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import (
    ARRAY,
    REAL,
    BigInteger,
    CheckConstraint,
    DateTime,
    Double,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from tasks.mail.kinds import Encryption, FolderType, MailProtocol
from tasks.storage.states import OutboxState

PROTOCOLS = tuple(MailProtocol)
ENCRYPTIONS = tuple(Encryption)
SENT_COPIES = ("auto", "append", "none")
ALL_MAIL = ("skip", "sync")
OUTBOX_STATES = tuple(OutboxState)
OAUTH2_PROVIDERS = ("google", "microsoft", "other")
# Why messages of a folder may be missing; `storage.messages.completeness` has words for people.
MISSING_REASONS = ("search", "withheld", "window", "listing", "refused")
REREAD_OUTCOMES = ("gone", "other", "unreadable")
FOLDER_TYPES = tuple(FolderType)


def _one_of(column: str, values: tuple[str, ...]) -> str:
    return f"{column} IN ({', '.join(repr(str(value)) for value in values)})"


# A message has its numbers on an IMAP server, or its unique-id on a POP3 server.
_NUMBERED = (
    "CASE WHEN uidl IS NULL THEN uidvalidity IS NOT NULL AND imap_uid IS NOT NULL "
    "ELSE uidvalidity IS NULL AND imap_uid IS NULL END"
)


def _one_uidl_an_account(table: str) -> Index:
    # A partial index, so that the planner uses it for look-ups by unique-id only (see the first migration).
    columns = ("tenant_id", "email_client_id", "uidl")
    return Index(f"{table}_uidl_key", *columns, unique=True, postgresql_where=text("uidl IS NOT NULL"))


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "pk": "%(table_name)s_pkey",
            "uq": "%(table_name)s_%(column_0_N_name)s_key",
            "fk": "%(table_name)s_%(referred_table_name)s_fkey",
            "ix": "%(table_name)s_%(column_0_N_name)s_idx",
            "ck": "%(table_name)s_%(constraint_name)s_check",
        }
    )
    type_annotation_map: ClassVar = {
        str: Text(),
        int: Integer(),
        bytes: LargeBinary(),
        datetime: DateTime(timezone=True),
        list[str]: ARRAY(Text()),
        list[dict[str, str]]: JSONB(),
        dict[str, Any]: JSONB(),
    }


_now = text("now()")
_zero = text("0")
_true = text("true")
_false = text("false")
_empty_array = text("'{}'::text[]")
_empty_list = text("'[]'::jsonb")


class Credential(Base):
    """A secret, encrypted with the application's keys and bound to its tenant and id.

    `key_id` names the key. The secret of an OAuth2 grant is a JSON object (`storage.accounts.grants`).
    """

    __tablename__ = "credential"
    tenant_id: Mapped[str]
    id: Mapped[str]
    kind: Mapped[str]
    ciphertext: Mapped[bytes]
    key_id: Mapped[str] = mapped_column(server_default=text("''"))
    created_at: Mapped[datetime] = mapped_column(server_default=_now)
    updated_at: Mapped[datetime] = mapped_column(server_default=_now)
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "id"),
        CheckConstraint("tenant_id <> ''", "tenant_id"),
        CheckConstraint(_one_of("kind", ("password", "oauth2_refresh_token", "task_arguments")), "kind"),
    )


class OAuth2Grant(Base):
    """What a refresh token was granted for and where it is used; the tokens themselves are the credential's secret.

    The stored access token is good until `expires_at`; the token endpoint is not asked again before `retry_at`.
    """

    __tablename__ = "oauth2_grant"
    tenant_id: Mapped[str]
    credential_id: Mapped[str]
    provider: Mapped[str]
    token_endpoint: Mapped[str]
    client_id: Mapped[str]
    scope: Mapped[str]
    expires_at: Mapped[datetime | None]
    refreshed_at: Mapped[datetime | None]
    retry_at: Mapped[datetime | None]
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "credential_id"),
        ForeignKeyConstraint(
            ["tenant_id", "credential_id"], ["credential.tenant_id", "credential.id"], ondelete="CASCADE"
        ),
        CheckConstraint(_one_of("provider", OAUTH2_PROVIDERS), "provider"),
        CheckConstraint("token_endpoint LIKE 'https://%'", "token_endpoint"),
    )


class EmailClient(Base):
    """A mailbox account. `lease_owner` is the one run of a task that may write to it until `lease_until`.

    `pop3_keep_days` is how long a stored message is left on a POP3 server; NULL: for ever.

    A login refused by the IMAP or POP3 server sets `paused_at` and `last_error`, a login refused by the SMTP server
    sets `smtp_paused_at` and `smtp_last_error`: either side works without the other. `login_mechanism` is the
    mechanism of the last login that worked; NULL means that no login has worked with this secret. `login_failures`
    counts the logins since then that did not work. `login_refused_since` is since when they were refused in clear
    words. No login is tried before `login_retry_at` (`storage/accounts/logins.py`).

    `all_mail` says whether views (folders that show messages of other folders a second time) are synced too.
    `refused_extensions` are extensions that the server offers and refuses (`mail.imap.extensions`).

    The account is due at `next_sync_at`. From `sync_queued_at`
    until a worker takes it, the account's sync waits in the queue.

    `reread_share` is the used part, 0 to 1, of the hourly limits for rereading. It counts until an hour after
    `reread_at`, the time of the last rereading. All messages that parsers before `reread_version` read were asked for
    automatically, and are asked for once more at `reread_again_at`.
    """

    __tablename__ = "email_client"
    tenant_id: Mapped[str]
    id: Mapped[str]
    user_id: Mapped[str]
    account_name: Mapped[str]
    email_address: Mapped[str]
    protocol: Mapped[str]
    hostname: Mapped[str]
    port: Mapped[int]
    encryption: Mapped[str]
    username: Mapped[str]
    credential_id: Mapped[str]
    pop3_keep_days: Mapped[int | None]
    smtp_hostname: Mapped[str | None]
    smtp_port: Mapped[int | None]
    smtp_encryption: Mapped[str | None]
    smtp_username: Mapped[str | None]
    smtp_credential_id: Mapped[str | None]
    sent_copies: Mapped[str] = mapped_column(server_default=text("'auto'"))
    all_mail: Mapped[str] = mapped_column(server_default=text("'skip'"))
    refused_extensions: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    is_enabled: Mapped[bool] = mapped_column(server_default=_true)
    is_sync_enabled: Mapped[bool] = mapped_column(server_default=_true)
    sync_interval: Mapped[int] = mapped_column(server_default=text("300"))
    next_sync_at: Mapped[datetime] = mapped_column(server_default=_now)
    sync_queued_at: Mapped[datetime | None]
    last_sync_at: Mapped[datetime | None]
    paused_at: Mapped[datetime | None]
    last_error_code: Mapped[str | None]
    last_error: Mapped[str | None]
    last_error_at: Mapped[datetime | None]
    failing_since: Mapped[datetime | None]
    login_mechanism: Mapped[str | None]
    login_refused_since: Mapped[datetime | None]
    login_failures: Mapped[int] = mapped_column(server_default=_zero)
    login_retry_at: Mapped[datetime | None]
    smtp_paused_at: Mapped[datetime | None]
    smtp_last_error: Mapped[str | None]
    smtp_login_mechanism: Mapped[str | None]
    smtp_login_refused_since: Mapped[datetime | None]
    smtp_login_failures: Mapped[int] = mapped_column(server_default=_zero)
    smtp_login_retry_at: Mapped[datetime | None]
    lease_owner: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    lease_wanted_until: Mapped[datetime | None]
    reread_at: Mapped[datetime | None]
    reread_share: Mapped[float] = mapped_column(Double(), server_default=_zero)
    reread_version: Mapped[int] = mapped_column(SmallInteger(), server_default=text("1"))
    reread_again_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=_now)
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "id"),
        UniqueConstraint("tenant_id", "user_id", "account_name"),
        ForeignKeyConstraint(["tenant_id", "credential_id"], ["credential.tenant_id", "credential.id"]),
        ForeignKeyConstraint(
            ["tenant_id", "smtp_credential_id"],
            ["credential.tenant_id", "credential.id"],
            name="email_client_smtp_credential_fkey",
        ),
        CheckConstraint("tenant_id <> ''", "tenant_id"),
        CheckConstraint(_one_of("protocol", PROTOCOLS), "protocol"),
        CheckConstraint(_one_of("encryption", ENCRYPTIONS), "encryption"),
        CheckConstraint(_one_of("smtp_encryption", ENCRYPTIONS), "smtp_encryption"),
        CheckConstraint(_one_of("sent_copies", SENT_COPIES), "sent_copies"),
        CheckConstraint(_one_of("all_mail", ALL_MAIL), "all_mail"),
        CheckConstraint("sync_interval > 0", "sync_interval"),
        CheckConstraint("pop3_keep_days >= 0", "pop3_keep_days"),
        # For `periodic_sync`, which looks for due accounts tenant by tenant.
        Index(
            "email_client_due_idx",
            "tenant_id",
            "next_sync_at",
            postgresql_where=text("is_enabled AND is_sync_enabled AND paused_at IS NULL"),
        ),
        # The accounts that are being synced now, to count the connections to a host.
        Index("email_client_leased_idx", "hostname", postgresql_where=text("lease_owner IS NOT NULL")),
    )


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
    is_selectable: Mapped[bool] = mapped_column(server_default=_true)
    is_view: Mapped[bool] = mapped_column(server_default=_false)
    unread_count: Mapped[int] = mapped_column(server_default=_zero)
    total_count: Mapped[int] = mapped_column(server_default=_zero)
    uidvalidity: Mapped[int | None] = mapped_column(BigInteger)
    uidnext: Mapped[int] = mapped_column(BigInteger, server_default=text("1"))
    highestmodseq: Mapped[int | None] = mapped_column(BigInteger)
    mailbox_id: Mapped[str | None]
    suspect_uid: Mapped[int | None] = mapped_column(BigInteger)
    suspect_uidl: Mapped[str | None]
    suspect_attempts: Mapped[int] = mapped_column(server_default=_zero)
    verified_at: Mapped[datetime | None]
    synced_at: Mapped[datetime | None]
    server_count: Mapped[int | None]
    window_size: Mapped[int | None]
    hidden_count: Mapped[int] = mapped_column(server_default=_zero)
    missing_count: Mapped[int] = mapped_column(server_default=_zero)
    missing_reason: Mapped[str | None]
    missing_again_at: Mapped[datetime | None]
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "id"),
        CheckConstraint(_one_of("missing_reason", MISSING_REASONS), "missing_reason"),
        UniqueConstraint("tenant_id", "email_client_id", "id"),
        UniqueConstraint("tenant_id", "email_client_id", "path"),
        ForeignKeyConstraint(
            ["tenant_id", "email_client_id"], ["email_client.tenant_id", "email_client.id"], ondelete="CASCADE"
        ),
        CheckConstraint(_one_of("type", FOLDER_TYPES), "type"),
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
    from_addresses: Mapped[list[dict[str, str]]] = mapped_column(server_default=_empty_list)
    to_addresses: Mapped[list[dict[str, str]]] = mapped_column(server_default=_empty_list)
    cc_addresses: Mapped[list[dict[str, str]]] = mapped_column(server_default=_empty_list)
    bcc_addresses: Mapped[list[dict[str, str]]] = mapped_column(server_default=_empty_list)
    reply_to_addresses: Mapped[list[dict[str, str]]] = mapped_column(server_default=_empty_list)
    subject: Mapped[str]
    text_body: Mapped[str | None]
    html_body: Mapped[str | None]
    headers: Mapped[dict[str, Any]]
    received_at: Mapped[datetime | None]
    sent_at: Mapped[datetime | None]
    is_read: Mapped[bool] = mapped_column(server_default=_false)
    is_starred: Mapped[bool] = mapped_column(server_default=_false)
    is_spam: Mapped[bool] = mapped_column(server_default=_false)
    is_not_spam: Mapped[bool] = mapped_column(server_default=_false)
    is_draft: Mapped[bool] = mapped_column(server_default=_false)
    is_sent: Mapped[bool] = mapped_column(server_default=_false)
    is_deleted: Mapped[bool] = mapped_column(server_default=_false)
    labels: Mapped[list[str]] = mapped_column(server_default=_empty_array)
    attachment_count: Mapped[int] = mapped_column(server_default=_zero)
    size: Mapped[int] = mapped_column(BigInteger)
    filed_at: Mapped[datetime] = mapped_column(server_default=_now)
    spam_score: Mapped[float | None] = mapped_column(REAL)
    spam_indicators: Mapped[list[dict[str, Any]]] = mapped_column(JSONB(), server_default=_empty_list)
    # The default is the first parser, because a worker of a release without this column leaves it out.
    parser_version: Mapped[int] = mapped_column(SmallInteger, server_default=text("1"))
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "id"),
        CheckConstraint("spam_score BETWEEN 0 AND 1", "spam_score"),
        UniqueConstraint("tenant_id", "folder_id", "uidvalidity", "imap_uid"),
        _one_uidl_an_account("email_message"),
        ForeignKeyConstraint(
            ["tenant_id", "email_client_id", "folder_id"],
            ["email_folder.tenant_id", "email_folder.email_client_id", "email_folder.id"],
            ondelete="CASCADE",
        ),
        CheckConstraint(_NUMBERED, "numbered"),
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
    attempts: Mapped[int] = mapped_column(server_default=_zero)
    outcome: Mapped[str | None]
    detail: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=_now)
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "email_message_id"),
        ForeignKeyConstraint(
            ["tenant_id", "email_message_id"], ["email_message.tenant_id", "email_message.id"], ondelete="CASCADE"
        ),
        CheckConstraint(_one_of("outcome", REREAD_OUTCOMES), "outcome"),
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
    created_at: Mapped[datetime] = mapped_column(server_default=_now)
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
    created_at: Mapped[datetime] = mapped_column(server_default=_now)
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "id"),
        UniqueConstraint("tenant_id", "folder_id", "uidvalidity", "imap_uid"),
        _one_uidl_an_account("raw_quarantine"),
        ForeignKeyConstraint(
            ["tenant_id", "email_client_id", "folder_id"],
            ["email_folder.tenant_id", "email_folder.email_client_id", "email_folder.id"],
            ondelete="CASCADE",
        ),
        CheckConstraint(_NUMBERED, "numbered"),
    )


class OutboxMessage(Base):
    """A message on its way out. engine/send/outbox.py explains its states and what changes them.

    Two calls with the same `key` are one message: the key is `key:` and the caller's idempotency key, or `task:` and
    the id of the task. `digest` is the SHA-256 of the draft as the caller wrote it, `content_digest` that of its
    content, however written. `raw` are the bytes to send, kept until the message is sent. `recipients` are {address,
    state, reply}. `owner` is the run that has held the row since `claimed_at`. `data_at` is when that run was about
    to send the end of the data. `asked_at` is the time from which SMTP_MAX_AGE counts: for the message, and once it
    is accepted, for its Sent copy. The next try is at `next_try_at`. `dispatched_at` is when the task for that try
    was queued, NULL if it is still to be queued. `task` has the id of that task and the tasks that are to follow it.
    """

    __tablename__ = "outbox_message"
    tenant_id: Mapped[str]
    id: Mapped[str]
    email_client_id: Mapped[str]
    key: Mapped[str]
    digest: Mapped[str]
    content_digest: Mapped[str | None]
    state: Mapped[str]
    message_id: Mapped[str]
    sender: Mapped[str]
    recipients: Mapped[list[dict[str, str]]]
    raw: Mapped[bytes | None]
    size: Mapped[int] = mapped_column(BigInteger)
    attempts: Mapped[int] = mapped_column(server_default=_zero)
    owner: Mapped[str | None]
    claimed_at: Mapped[datetime | None]
    data_at: Mapped[datetime | None]
    accepted_at: Mapped[datetime | None]
    last_error_code: Mapped[str | None]
    last_error: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=_now)
    updated_at: Mapped[datetime] = mapped_column(server_default=_now)
    next_try_at: Mapped[datetime | None]
    dispatched_at: Mapped[datetime | None]
    asked_at: Mapped[datetime] = mapped_column(server_default=_now)
    task: Mapped[dict[str, Any] | None]
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "id"),
        UniqueConstraint("tenant_id", "email_client_id", "key"),
        ForeignKeyConstraint(
            ["tenant_id", "email_client_id"], ["email_client.tenant_id", "email_client.id"], ondelete="CASCADE"
        ),
        CheckConstraint(_one_of("state", OUTBOX_STATES), "state"),
        # For the few messages that are not sent, among many that are.
        Index("outbox_message_open_idx", "tenant_id", "created_at", postgresql_where=text("state <> 'sent'")),
        Index("outbox_message_next_try_idx", "next_try_at", postgresql_where=text("state NOT IN ('sent', 'failed')")),
        Index(
            "outbox_message_waiting_idx",
            "tenant_id",
            "email_client_id",
            postgresql_where=text("dispatched_at IS NULL AND state IN ('queued', 'unknown', 'accepted')"),
        ),
    )


class DeadLetter(Base):
    """A task that failed for good. The same work (`task_key`) has one row.

    `shown_arguments` are redacted; the complete arguments are encrypted, in the credential.
    """

    __tablename__ = "dead_letter"
    tenant_id: Mapped[str]
    id: Mapped[str]
    task_key: Mapped[str]
    task_name: Mapped[str]
    task_id: Mapped[str]
    user_id: Mapped[str | None]
    shown_arguments: Mapped[dict[str, Any]]
    credential_id: Mapped[str]
    error_code: Mapped[str]
    error: Mapped[str]
    traceback: Mapped[str]
    attempts: Mapped[int]
    first_failed_at: Mapped[datetime] = mapped_column(server_default=_now)
    last_failed_at: Mapped[datetime] = mapped_column(server_default=_now)
    retried_at: Mapped[datetime | None]
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "id"),
        UniqueConstraint("tenant_id", "task_key"),
        ForeignKeyConstraint(["tenant_id", "credential_id"], ["credential.tenant_id", "credential.id"]),
        CheckConstraint("tenant_id <> ''", "tenant_id"),
        Index("dead_letter_last_failed_idx", "last_failed_at"),
    )


class Deletion(Base):
    """A message that a task is to delete.

    When the task runs again, it knows from this row that the message was the caller's.
    """

    __tablename__ = "deletion"
    tenant_id: Mapped[str]
    # The key of the task's work, as in dead_letter: another task with the same work has the same key.
    task_key: Mapped[str] = mapped_column("task_id")
    email_message_id: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=_now)
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "task_id", "email_message_id"),
        CheckConstraint("tenant_id <> ''", "tenant_id"),
        Index("deletion_created_idx", "tenant_id", "created_at"),
    )
