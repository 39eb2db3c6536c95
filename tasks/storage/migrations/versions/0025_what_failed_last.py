"""Functions for the status page: the accounts and the tasks of all tenants that failed last, a few of each."""

import sqlalchemy as sa
from alembic import op

from tasks.storage.migrations.tenancy import create_definer_function

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

# Texts are cut: they are servers' words, of any length.
ACCOUNTS = """
RETURNS TABLE (
  tenant_id text, id text, account_name text, hostname text, error_code text, error text, is_paused boolean,
  seconds double precision
)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
AS $$
  SELECT public.refuse_unless(max_accounts BETWEEN 1 AND 100, 'newest_failing_accounts: max_accounts');
  SELECT account.tenant_id, account.id, left(account.account_name, 200), left(account.hostname, 200),
         account.last_error_code, left(account.last_error, 300), account.paused_at IS NOT NULL,
         extract(epoch FROM now() - account.failing_since)::double precision
  FROM public.email_client AS account
  WHERE is_enabled AND is_sync_enabled AND failing_since IS NOT NULL
  ORDER BY failing_since DESC LIMIT max_accounts
$$
"""
LETTERS = """
RETURNS TABLE (
  tenant_id text, id text, task_name text, error_code text, error text, attempts integer, is_retried boolean,
  seconds double precision
)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
AS $$
  SELECT public.refuse_unless(max_letters BETWEEN 1 AND 100, 'newest_dead_letters: max_letters');
  SELECT letter.tenant_id, letter.id, left(letter.task_name, 200), letter.error_code, left(letter.error, 300),
         letter.attempts, letter.retried_at IS NOT NULL,
         extract(epoch FROM now() - letter.last_failed_at)::double precision
  FROM public.dead_letter AS letter
  ORDER BY letter.last_failed_at DESC LIMIT max_letters
$$
"""


def upgrade() -> None:
    op.create_index(
        "email_client_failing_idx",
        "email_client",
        ["failing_since"],
        postgresql_where=sa.text("is_enabled AND is_sync_enabled AND failing_since IS NOT NULL"),
    )
    create_definer_function("newest_failing_accounts(max_accounts integer)", ACCOUNTS)
    create_definer_function("newest_dead_letters(max_letters integer)", LETTERS)


def downgrade() -> None:
    op.execute("DROP FUNCTION newest_dead_letters")
    op.execute("DROP FUNCTION newest_failing_accounts")
    op.drop_index("email_client_failing_idx", "email_client")
