"""Which parser read a message, which messages are to be read
again, and how much of an account was reread within the hour."""

import sqlalchemy as sa
from alembic import op

from tasks.storage.migrations.intake import create_intake, drop_intake
from tasks.storage.migrations.tenancy import create_definer_function, isolate_tenants

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

INTAKE_BEFORE = {"filed_at": "now()", "is_not_spam": "false", "spam_indicators": "'[]'::jsonb"}
# A worker of the release before stores messages that the first parser read.
INTAKE_AFTER = {**INTAKE_BEFORE, "parser_version": "1"}

# An account whose last sync failed is left to its syncs; one that came to its end has its errors noted right after.
WITH_REREADING = """
RETURNS TABLE (tenant_id text, email_client_id text, user_id text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
AS $$
  SELECT account.tenant_id, account.id, account.user_id
  FROM public.email_client AS account
  WHERE account.is_enabled AND account.is_sync_enabled AND account.paused_at IS NULL
    AND (account.tenant_id, account.id) > (after_tenant, after_account)
    AND coalesce(account.last_error_at <= account.last_sync_at + interval '10 seconds', account.last_error_at IS NULL)
    AND NOT (account.reread_share >= 1 AND account.reread_at > now() - interval '1 hour')
    AND EXISTS (
      SELECT FROM public.rereading AS waiting
      WHERE waiting.tenant_id = account.tenant_id AND waiting.email_client_id = account.id
        AND waiting.outcome IS NULL AND waiting.parser_version <= known_version
    )
  ORDER BY account.tenant_id, account.id
  LIMIT max_accounts
$$
"""


# For the operator's command line.
TENANTS = """
RETURNS SETOF text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
AS $$ SELECT DISTINCT tenant_id FROM public.email_client ORDER BY tenant_id $$
"""


def upgrade() -> None:
    drop_intake("email_message")
    op.add_column(
        "email_message", sa.Column("parser_version", sa.SmallInteger(), server_default=sa.text("1"), nullable=False)
    )
    create_intake("email_message", **INTAKE_AFTER)
    op.add_column("email_client", sa.Column("reread_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("email_client", sa.Column("reread_share", sa.Double(), server_default=sa.text("0"), nullable=False))
    op.create_table(
        "rereading",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("email_message_id", sa.Text(), nullable=False),
        sa.Column("email_client_id", sa.Text(), nullable=False),
        sa.Column("parser_version", sa.SmallInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("outcome IN ('gone', 'other', 'unreadable')", name=op.f("rereading_outcome_check")),
        sa.ForeignKeyConstraint(
            ["tenant_id", "email_message_id"],
            ["email_message.tenant_id", "email_message.id"],
            name=op.f("rereading_email_message_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "email_message_id", name=op.f("rereading_pkey")),
    )
    op.create_index(
        "rereading_waiting_idx",
        "rereading",
        ["tenant_id", "email_client_id", "attempts", sa.text("email_message_id DESC")],
        postgresql_where=sa.text("outcome IS NULL"),
    )
    isolate_tenants("rereading")
    create_definer_function(
        "accounts_with_rereading(known_version integer, after_tenant text, after_account text, max_accounts integer)",
        WITH_REREADING,
    )
    create_definer_function("tenants_with_accounts()", TENANTS)


def downgrade() -> None:
    op.execute("DROP FUNCTION tenants_with_accounts")
    op.execute("DROP FUNCTION accounts_with_rereading")
    op.drop_table("rereading")
    op.drop_column("email_client", "reread_share")
    op.drop_column("email_client", "reread_at")
    drop_intake("email_message")
    op.drop_column("email_message", "parser_version")
    create_intake("email_message", **INTAKE_BEFORE)
