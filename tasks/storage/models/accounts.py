"""The tables of accounts and of their secrets."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Double,
    ForeignKeyConstraint,
    Index,
    PrimaryKeyConstraint,
    SmallInteger,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from tasks.mail.kinds import Encryption, MailProtocol
from tasks.storage.models.base import NOW, TRUE, ZERO, Base, one_of

SENT_COPIES = ("auto", "append", "none")
ALL_MAIL = ("skip", "sync")
WATCH = ("auto", "on", "off")
CREDENTIAL_KINDS = ("password", "oauth2_refresh_token", "task_arguments", "webhook_secret")
OAUTH2_PROVIDERS = ("google", "microsoft", "other")


class Credential(Base):
    """A secret, encrypted with the application's keys and bound to its tenant and id.

    `key_id` names the key, `stored_in` the transaction that stored the row (NULL: before there was the column). The
    secret of an OAuth2 grant is a JSON object (`storage.accounts.grants`).
    """

    __tablename__ = "credential"
    tenant_id: Mapped[str]
    id: Mapped[str]
    kind: Mapped[str]
    ciphertext: Mapped[bytes]
    key_id: Mapped[str] = mapped_column(server_default=text("''"))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW)
    stored_in: Mapped[int | None] = mapped_column(
        BigInteger, server_default=text("((pg_current_xact_id())::text)::bigint")
    )
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "id"),
        CheckConstraint("tenant_id <> ''", "tenant_id"),
        CheckConstraint(one_of("kind", CREDENTIAL_KINDS), "kind"),
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
        CheckConstraint(one_of("provider", OAUTH2_PROVIDERS), "provider"),
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

    `watched_by` is the watcher that has the account to watch, and `watched_since` the moment since which it holds a
    connection that tells of changes. No watcher takes the account before `watch_retry_at`; `watch_problem` says why.

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
    is_enabled: Mapped[bool] = mapped_column(server_default=TRUE)
    is_sync_enabled: Mapped[bool] = mapped_column(server_default=TRUE)
    sync_interval: Mapped[int] = mapped_column(server_default=text("300"))
    next_sync_at: Mapped[datetime] = mapped_column(server_default=NOW)
    sync_queued_at: Mapped[datetime | None]
    last_sync_at: Mapped[datetime | None]
    paused_at: Mapped[datetime | None]
    last_error_code: Mapped[str | None]
    last_error: Mapped[str | None]
    last_error_at: Mapped[datetime | None]
    failing_since: Mapped[datetime | None]
    login_mechanism: Mapped[str | None]
    login_refused_since: Mapped[datetime | None]
    login_failures: Mapped[int] = mapped_column(server_default=ZERO)
    login_retry_at: Mapped[datetime | None]
    smtp_paused_at: Mapped[datetime | None]
    smtp_last_error: Mapped[str | None]
    smtp_login_mechanism: Mapped[str | None]
    smtp_login_refused_since: Mapped[datetime | None]
    smtp_login_failures: Mapped[int] = mapped_column(server_default=ZERO)
    smtp_login_retry_at: Mapped[datetime | None]
    lease_owner: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    lease_wanted_until: Mapped[datetime | None]
    watch: Mapped[str] = mapped_column(server_default=text("'auto'"))
    watched_by: Mapped[str | None]
    watched_since: Mapped[datetime | None]
    watch_retry_at: Mapped[datetime | None]
    watch_problem: Mapped[str | None]
    reread_at: Mapped[datetime | None]
    reread_share: Mapped[float] = mapped_column(Double(), server_default=ZERO)
    reread_version: Mapped[int] = mapped_column(SmallInteger(), server_default=text("1"))
    reread_again_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
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
        CheckConstraint(one_of("protocol", MailProtocol), "protocol"),
        CheckConstraint(one_of("encryption", Encryption), "encryption"),
        CheckConstraint(one_of("smtp_encryption", Encryption), "smtp_encryption"),
        CheckConstraint(one_of("sent_copies", SENT_COPIES), "sent_copies"),
        CheckConstraint(one_of("all_mail", ALL_MAIL), "all_mail"),
        CheckConstraint(one_of("watch", WATCH), "watch"),
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
        # The accounts of a watcher, and those that are watched at a mail server, to count its connections.
        Index("email_client_watched_idx", "watched_by", postgresql_where=text("watched_by IS NOT NULL")),
        Index("email_client_watched_host_idx", "hostname", postgresql_where=text("watched_by IS NOT NULL")),
        # The failing accounts by when they began to fail, for the status page.
        Index(
            "email_client_failing_idx",
            "failing_since",
            postgresql_where=text("is_enabled AND is_sync_enabled AND failing_since IS NOT NULL"),
        ),
        # The few accounts that are not well, to count them without reading them.
        Index(
            "email_client_unwell_idx",
            *("hostname", "protocol", "last_error_code", "paused_at", "failing_since", "last_sync_at"),
            postgresql_where=text(
                "is_enabled AND is_sync_enabled AND (paused_at IS NOT NULL OR failing_since IS NOT NULL "
                "OR smtp_paused_at IS NOT NULL OR last_sync_at IS NULL)"
            ),
        ),
    )


class MailWatcher(Base):
    """A process that watches mailboxes, and until when it counts as alive.

    It belongs to no tenant: only functions that run as the owner of the tables read or write it (migration 0026).
    """

    __tablename__ = "mail_watcher"
    id: Mapped[str] = mapped_column(primary_key=True)
    alive_until: Mapped[datetime]
