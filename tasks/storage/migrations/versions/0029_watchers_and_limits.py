"""Watchers give up accounts where the limit of a mail server was lowered, and metrics count watched accounts."""

from alembic import op

from tasks.storage.migrations.tenancy import create_definer_function

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None

_SQL = "LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp"
# As in 0026.
_CAN_BE_WATCHED = """
is_enabled AND is_sync_enabled AND paused_at IS NULL AND protocol = 'imap' AND watch <> 'off'
AND last_sync_at IS NOT NULL
"""

# Of the accounts that watchers together have at a mail server beyond half of its limit, each gives up its own. Those
# with the longest connections stay. One watcher at a time, as in claim_watches, so that all see the same accounts.
GIVE_UP_OVER_LIMITS = f"""
RETURNS bigint
{_SQL}
AS $$
  SELECT public.refuse_unless(length(watcher) BETWEEN 1 AND 200, 'give_up_over_limits: watcher is not a name');
  SELECT public.refuse_unless(
    jsonb_typeof(host_limits) = 'object', 'give_up_over_limits: host_limits is not an object');
  SELECT pg_advisory_xact_lock(hashtextextended('claim_watches', 0));
  WITH held AS (
    SELECT tenant_id, id, watched_by,
           nullif(coalesce(host_limits ->> hostname, host_limits ->> '*')::integer, 0) / 2 AS most,
           row_number() OVER (
             PARTITION BY hostname ORDER BY watch = 'on' DESC, watched_since NULLS LAST, tenant_id, id
           ) AS place
    FROM public.email_client WHERE watched_by IS NOT NULL AND host_limits <> '{{}}'::jsonb
  ), given_up AS (
    UPDATE public.email_client AS account
    SET watched_by = NULL, watched_since = NULL,
        next_sync_at = least(account.next_sync_at, now() + make_interval(secs => account.sync_interval * random()))
    FROM held
    WHERE account.tenant_id = held.tenant_id AND account.id = held.id
      AND held.watched_by = watcher AND held.place > held.most
    RETURNING 1
  )
  SELECT count(*) FROM given_up
$$
"""

# Without a watcher nothing is counted. Else the accounts are read as a whole to count those that wait, as each
# watcher does whenever it claims.
COUNT_WATCHED_ACCOUNTS = f"""
RETURNS TABLE (state text, accounts bigint)
{_SQL}
AS $$
  WITH living AS (SELECT FROM public.mail_watcher WHERE alive_until > clock_timestamp())
  SELECT 'connected', count(watched_since) FROM public.email_client WHERE watched_by IS NOT NULL
  UNION ALL
  SELECT 'connecting', count(*) - count(watched_since) FROM public.email_client WHERE watched_by IS NOT NULL
  UNION ALL
  SELECT seen.state, count(*)
  FROM (
    SELECT CASE WHEN watch_retry_at > now() THEN 'refused' WHEN failing_since IS NULL THEN 'waiting' END AS state
    FROM public.email_client
    WHERE (SELECT EXISTS (SELECT FROM living)) AND watched_by IS NULL AND {_CAN_BE_WATCHED}
  ) AS seen
  WHERE seen.state IS NOT NULL
  GROUP BY seen.state
$$
"""

FUNCTIONS = {
    "give_up_over_limits(watcher text, host_limits jsonb)": GIVE_UP_OVER_LIMITS,
    "count_watched_accounts()": COUNT_WATCHED_ACCOUNTS,
}


def upgrade() -> None:
    for signature, definition in FUNCTIONS.items():
        create_definer_function(signature, definition)


def downgrade() -> None:
    for signature in reversed(FUNCTIONS):
        op.execute(f"DROP FUNCTION {signature.partition('(')[0]}")
