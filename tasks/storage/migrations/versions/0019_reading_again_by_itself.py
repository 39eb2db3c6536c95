"""For which parser version an account's older messages were asked for by themselves, and when they are once more."""

import sqlalchemy as sa
from alembic import op

from tasks.storage.migrations.tenancy import create_definer_function

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

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
    AND ({is_due}EXISTS (
      SELECT FROM public.rereading AS waiting
      WHERE waiting.tenant_id = account.tenant_id AND waiting.email_client_id = account.id
        AND waiting.outcome IS NULL AND waiting.parser_version <= known_version
    ))
  ORDER BY account.tenant_id, account.id
  LIMIT max_accounts
$$
"""
IS_DUE = "automatically AND (account.reread_version < known_version OR account.reread_again_at <= now()) OR "
SIGNATURE = (
    "accounts_with_rereading(known_version integer, after_tenant text, after_account text, max_accounts integer"
)


def upgrade() -> None:
    op.add_column(
        "email_client", sa.Column("reread_version", sa.SmallInteger(), server_default=sa.text("1"), nullable=False)
    )
    op.add_column("email_client", sa.Column("reread_again_at", sa.DateTime(timezone=True), nullable=True))
    op.execute("DROP FUNCTION accounts_with_rereading")
    # Workers of the release before call this with four arguments.
    create_definer_function(
        f"{SIGNATURE}, automatically boolean DEFAULT false)", WITH_REREADING.format(is_due=IS_DUE)
    )


def downgrade() -> None:
    op.execute("DROP FUNCTION accounts_with_rereading")
    create_definer_function(f"{SIGNATURE})", WITH_REREADING.format(is_due=""))
    op.drop_column("email_client", "reread_again_at")
    op.drop_column("email_client", "reread_version")
