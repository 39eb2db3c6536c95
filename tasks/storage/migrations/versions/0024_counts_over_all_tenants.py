"""Functions that count over all tenants for metrics, and an index of the accounts that are not well."""

import sqlalchemy as sa
from alembic import op

from tasks.storage.migrations.tenancy import create_definer_function

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

# The accounts that are not well: few where a site is well, so the index costs little to keep. It holds all that is
# counted, so that the accounts themselves are not read.
UNWELL = """
is_enabled AND is_sync_enabled
AND (paused_at IS NOT NULL OR failing_since IS NOT NULL OR smtp_paused_at IS NOT NULL OR last_sync_at IS NULL)
"""
DUE = "is_enabled AND is_sync_enabled AND paused_at IS NULL"

ESTIMATE = """
RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
AS $$
  SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = 'public.email_client'::regclass
$$
"""

# The providers are the servers of most people's mail; all others count together, so that there are few rows.
ACCOUNTS = f"""
RETURNS TABLE (state text, protocol text, provider text, error_code text, accounts bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
AS $$
  WITH unwell (state, protocol, hostname, error_code, accounts) AS (
    SELECT CASE
             WHEN paused_at IS NOT NULL THEN 'paused'
             WHEN failing_since IS NOT NULL THEN 'failing'
             WHEN last_sync_at IS NULL THEN 'first_sync'
             ELSE 'sending_paused'
           END,
           account.protocol, account.hostname, account.last_error_code, count(*)
    FROM public.email_client AS account
    WHERE {UNWELL}
    GROUP BY 1, 2, 3, 4
  )
  SELECT unwell.state, unwell.protocol,
         CASE
           WHEN hostname ~ '(^|\\.)(gmail|googlemail|google)\\.com$' THEN 'google'
           WHEN hostname ~ '(^|\\.)(office365|outlook|hotmail|live)\\.com$' THEN 'microsoft'
           WHEN hostname ~ '(^|\\.)(yahoo|aol|yahoodns)\\.(com|net|co\\.jp)$' THEN 'yahoo'
           WHEN hostname ~ '(^|\\.)(me|icloud|mac)\\.com$' THEN 'apple'
           WHEN hostname ~ '(^|\\.)(gmx|web|1und1|ionos|mail)\\.(net|de|com)$' THEN 'united_internet'
           ELSE 'other'
         END,
         unwell.error_code, sum(unwell.accounts)::bigint
  FROM unwell
  GROUP BY 1, 2, 3, 4
$$
"""

# Walks the tenants in order, as claim_due_accounts does, because the index of due accounts begins with the tenant.
LATE = f"""
RETURNS TABLE (seconds double precision, accounts bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
AS $$
  WITH RECURSIVE tenant (id) AS (
    SELECT min(account.tenant_id) FROM public.email_client AS account WHERE {DUE}
    UNION ALL
    SELECT (
      SELECT min(account.tenant_id) FROM public.email_client AS account WHERE {DUE} AND account.tenant_id > tenant.id
    )
    FROM tenant WHERE tenant.id IS NOT NULL
  ), counted AS (
    SELECT count(*) AS late_0,
           count(*) FILTER (WHERE next_sync_at < now() - interval '1 minute') AS late_60,
           count(*) FILTER (WHERE next_sync_at < now() - interval '5 minutes') AS late_300,
           count(*) FILTER (WHERE next_sync_at < now() - interval '15 minutes') AS late_900,
           count(*) FILTER (WHERE next_sync_at < now() - interval '1 hour') AS late_3600,
           count(*) FILTER (WHERE next_sync_at < now() - interval '6 hours') AS late_21600,
           count(*) FILTER (WHERE next_sync_at < now() - interval '1 day') AS late_86400
    FROM tenant CROSS JOIN LATERAL (
      SELECT account.next_sync_at FROM public.email_client AS account
      WHERE {DUE} AND account.tenant_id = tenant.id AND account.next_sync_at < now()
    ) AS found
  )
  SELECT bound.seconds, bound.accounts
  FROM counted CROSS JOIN LATERAL (VALUES
    (0::double precision, late_0), (60, late_60), (300, late_300), (900, late_900), (3600, late_3600),
    (21600, late_21600), (86400, late_86400)
  ) AS bound (seconds, accounts)
$$
"""

# Of the messages that are neither sent nor failed for good, which alone are in the index of next tries.
OUTBOX = """
RETURNS TABLE (state text, messages bigint, oldest_seconds double precision)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
AS $$
  SELECT message.state, count(*), extract(epoch FROM now() - min(message.asked_at))::double precision
  FROM public.outbox_message AS message
  WHERE message.state NOT IN ('sent', 'failed')
  GROUP BY 1
$$
"""

DEAD_LETTERS = """
RETURNS TABLE (task_name text, is_retried boolean, letters bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
AS $$
  SELECT letter.task_name, letter.retried_at IS NOT NULL, count(*)
  FROM public.dead_letter AS letter GROUP BY letter.task_name, letter.retried_at IS NOT NULL
$$
"""
FUNCTIONS = {
    "estimate_accounts": ESTIMATE,
    "count_accounts": ACCOUNTS,
    "count_late_accounts": LATE,
    "count_outbox": OUTBOX,
    "count_dead_letters": DEAD_LETTERS,
}


def upgrade() -> None:
    op.create_index(
        "email_client_unwell_idx",
        "email_client",
        ["hostname", "protocol", "last_error_code", "paused_at", "failing_since", "last_sync_at"],
        postgresql_where=sa.text(UNWELL.strip()),
    )
    op.create_index("dead_letter_task_idx", "dead_letter", ["task_name", "retried_at"])
    for name, definition in FUNCTIONS.items():
        create_definer_function(f"{name}()", definition)


def downgrade() -> None:
    for name in FUNCTIONS:
        op.execute(f"DROP FUNCTION {name}")
    op.drop_index("dead_letter_task_idx", "dead_letter")
    op.drop_index("email_client_unwell_idx", "email_client")
