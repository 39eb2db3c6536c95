"""Webhooks: the endpoints of tenants, what they have not accepted yet, and who delivers to them."""

import sqlalchemy as sa
from alembic import op

from tasks.storage.migrations.tenancy import create_definer_function, isolate_tenants

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None

KINDS = ("password", "oauth2_refresh_token", "task_arguments")
TYPES = (
    *("message.created", "message.updated", "message.deleted", "message.sent", "message.failed", "message.unknown"),
    *("folder.created", "folder.renamed", "folder.deleted", "folder.renumbered"),
    *("account.synced", "account.reread", "account.failing", "account.paused", "account.resumed", "account.removed"),
)

# Whether events of its tenant wait for an endpoint: after its position, of transactions below the oldest open one.
WAITS = """
  webhook.is_enabled AND webhook.next_try_at <= clock_timestamp()
  AND EXISTS (
    SELECT FROM public.event
    WHERE event.tenant_id = webhook.tenant_id
      AND (event.transaction_id, event.number) > (webhook.transaction_id, webhook.number)
      AND event.transaction_id {} pg_snapshot_xmin(pg_current_snapshot())::text::bigint
  )
"""
CLAIM = f"""
RETURNS TABLE (tenant_id text, webhook_id text)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT public.refuse_unless(run <> '' AND length(run) <= 200, 'claim_webhooks: run is not a name');
  SELECT public.refuse_unless(
    max_webhooks BETWEEN 1 AND 1000, 'claim_webhooks: max_webhooks is not from 1 to 1,000'
  );
  SELECT public.refuse_unless(seconds BETWEEN 1 AND 3600, 'claim_webhooks: seconds is not from 1 to 3,600');
  WITH due AS (
    SELECT webhook.tenant_id, webhook.id FROM public.webhook
    WHERE (webhook.claimed_until IS NULL OR webhook.claimed_until < clock_timestamp())
      AND (({WAITS.format("<")}) OR (
        webhook.is_enabled AND webhook.next_try_at <= clock_timestamp() AND EXISTS (
          SELECT FROM public.webhook_backlog AS backlog
          WHERE backlog.tenant_id = webhook.tenant_id AND backlog.webhook_id = webhook.id
            AND backlog.next_try_at <= clock_timestamp()
        )
      ))
    ORDER BY webhook.next_try_at LIMIT max_webhooks FOR UPDATE OF webhook SKIP LOCKED
  )
  UPDATE public.webhook SET claimed_by = run, claimed_until = clock_timestamp() + make_interval(secs => seconds)
  FROM due WHERE webhook.tenant_id = due.tenant_id AND webhook.id = due.id
  RETURNING webhook.tenant_id, webhook.id;
$$
"""
HELD_BACK = f"""
RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT EXISTS (SELECT FROM public.webhook WHERE {WAITS.format(">=")});
$$
"""
COUNT = """
RETURNS TABLE (working bigint, failing bigint, disabled bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT count(*) FILTER (WHERE is_enabled AND failing_since IS NULL),
         count(*) FILTER (WHERE is_enabled AND failing_since IS NOT NULL),
         count(*) FILTER (WHERE NOT is_enabled)
  FROM public.webhook;
$$
"""


def upgrade() -> None:
    _replace_choices("credential", "kind", (*KINDS, "webhook_secret"))
    _replace_choices("event", "type", (*TYPES, "webhook.disabled"))
    op.create_table(
        "webhook",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("types", sa.ARRAY(sa.Text()), server_default=sa.text("'{}'::text[]"), nullable=False),
        sa.Column("account_ids", sa.ARRAY(sa.Text()), server_default=sa.text("'{}'::text[]"), nullable=False),
        sa.Column("credential_id", sa.Text(), nullable=False),
        sa.Column("old_credential_id", sa.Text(), nullable=True),
        sa.Column("old_secret_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("is_enabled", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("disabled_reason", sa.Text(), nullable=True),
        sa.Column("disabled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("transaction_id", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("claimed_by", sa.Text(), nullable=True),
        sa.Column("claimed_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("next_try_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("failing_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("last_accepted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("given_up", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("tenant_id <> ''", name=op.f("webhook_tenant_id_check")),
        sa.CheckConstraint("url ~ '^https?://'", name=op.f("webhook_url_check")),
        sa.CheckConstraint("disabled_reason IN ('gone', 'failing')", name=op.f("webhook_disabled_reason_check")),
        sa.ForeignKeyConstraint(
            ["tenant_id", "credential_id"],
            ["credential.tenant_id", "credential.id"],
            name=op.f("webhook_credential_fkey"),
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "old_credential_id"],
            ["credential.tenant_id", "credential.id"],
            name="webhook_old_credential_fkey",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("webhook_pkey")),
    )
    op.create_table(
        "webhook_backlog",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("webhook_id", sa.Text(), nullable=False),
        sa.Column("email_client_id", sa.Text(), nullable=False),
        sa.Column("transaction_id", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("next_try_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("failing_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.CheckConstraint("tenant_id <> ''", name=op.f("webhook_backlog_tenant_id_check")),
        sa.ForeignKeyConstraint(
            ["tenant_id", "webhook_id"],
            ["webhook.tenant_id", "webhook.id"],
            name=op.f("webhook_backlog_webhook_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "webhook_id", "email_client_id", name=op.f("webhook_backlog_pkey")),
    )
    for table in ("webhook", "webhook_backlog"):
        isolate_tenants(table)
    create_definer_function("claim_webhooks(run text, max_webhooks integer, seconds integer)", CLAIM)
    create_definer_function("webhooks_held_back()", HELD_BACK)
    create_definer_function("count_webhooks()", COUNT)


def downgrade() -> None:
    for name in ("count_webhooks", "webhooks_held_back", "claim_webhooks"):
        op.execute(f"DROP FUNCTION {name}")
    op.drop_table("webhook_backlog")
    op.drop_table("webhook")
    op.execute("DELETE FROM event WHERE type = 'webhook.disabled'")
    op.execute("DELETE FROM credential WHERE kind = 'webhook_secret'")
    _replace_choices("event", "type", TYPES)
    _replace_choices("credential", "kind", KINDS)


def _replace_choices(table: str, column: str, choices: tuple[str, ...]) -> None:
    name = f"{table}_{column}_check"
    op.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
    op.create_check_constraint(op.f(name), table, f"{column} IN ({', '.join(map(repr, choices))})")
