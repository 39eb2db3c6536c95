"""The tables of webhooks: the endpoints of tenants, and what they have not accepted yet."""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKeyConstraint, PrimaryKeyConstraint
from sqlalchemy.orm import Mapped, mapped_column

from tasks.storage.models.base import EMPTY_ARRAY, NOW, TRUE, ZERO, Base, one_of
from tasks.storage.states import DisabledReason


class Webhook(Base):
    """An endpoint: a URL that is told of the tenant's events of these types and accounts (none named: of all).

    `transaction_id` and `number` are the position of the last event that was dealt with: it was accepted, is not for
    this endpoint, or waits behind its account's row of `webhook_backlog`. Requests are signed with the secret of
    `credential_id`, and until `old_secret_until` also with the secret before it.

    `claimed_by` is the one run that may deliver until `claimed_until`. `attempts` counts the tries since the endpoint
    was away, and no try is made before `next_try_at`. `failing_since` is the first failure since it last accepted an
    event; `given_up` counts events that it refused ten times over three days, and that were left out then.
    """

    __tablename__ = "webhook"
    tenant_id: Mapped[str]
    id: Mapped[str]
    url: Mapped[str]
    types: Mapped[list[str]] = mapped_column(server_default=EMPTY_ARRAY)
    account_ids: Mapped[list[str]] = mapped_column(server_default=EMPTY_ARRAY)
    credential_id: Mapped[str]
    old_credential_id: Mapped[str | None]
    old_secret_until: Mapped[datetime | None]
    is_enabled: Mapped[bool] = mapped_column(server_default=TRUE)
    disabled_reason: Mapped[str | None]
    disabled_at: Mapped[datetime | None]
    transaction_id: Mapped[int] = mapped_column(BigInteger)
    number: Mapped[int] = mapped_column(BigInteger)
    claimed_by: Mapped[str | None]
    claimed_until: Mapped[datetime | None]
    attempts: Mapped[int] = mapped_column(server_default=ZERO)
    next_try_at: Mapped[datetime] = mapped_column(server_default=NOW)
    failing_since: Mapped[datetime | None]
    last_error: Mapped[str | None]
    last_accepted_at: Mapped[datetime | None]
    given_up: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "id"),
        ForeignKeyConstraint(["tenant_id", "credential_id"], ["credential.tenant_id", "credential.id"]),
        ForeignKeyConstraint(
            ["tenant_id", "old_credential_id"],
            ["credential.tenant_id", "credential.id"],
            name="webhook_old_credential_fkey",
        ),
        CheckConstraint("tenant_id <> ''", "tenant_id"),
        CheckConstraint("url ~ '^https?://'", "url"),
        CheckConstraint(one_of("disabled_reason", DisabledReason), "disabled_reason"),
    )


class WebhookBacklog(Base):
    """An account of which an endpoint has not accepted an event: that event and all later ones of the account wait
    here, so that they keep their order while those of other accounts go on.

    The position is that of the account's last event that was dealt with; what waits is between it and the endpoint's.
    `attempts` counts the tries of the first event that waits, since `failing_since`.
    """

    __tablename__ = "webhook_backlog"
    tenant_id: Mapped[str]
    webhook_id: Mapped[str]
    email_client_id: Mapped[str]
    transaction_id: Mapped[int] = mapped_column(BigInteger)
    number: Mapped[int] = mapped_column(BigInteger)
    attempts: Mapped[int] = mapped_column(server_default=ZERO)
    next_try_at: Mapped[datetime] = mapped_column(server_default=NOW)
    failing_since: Mapped[datetime | None]
    last_error: Mapped[str | None]
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "webhook_id", "email_client_id"),
        ForeignKeyConstraint(["tenant_id", "webhook_id"], ["webhook.tenant_id", "webhook.id"], ondelete="CASCADE"),
        CheckConstraint("tenant_id <> ''", "tenant_id"),
    )
