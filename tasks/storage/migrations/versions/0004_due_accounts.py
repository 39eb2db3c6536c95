"""When each account is due, the function that claims due ones fairly, and the limit of connections to a host."""

import sqlalchemy as sa
from alembic import op

from tasks.storage.migrations.tenancy import create_definer_function

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# Walks the tenants in order, those after `after_tenant` (or from it on, where that is inclusive), and takes of each a
# few of the accounts that have been due longest. Both steps are look-ups in the index of due accounts, however many
# accounts there are. Accounts become due up to a fifth of the interval early. Otherwise `periodic_sync`, which runs
# once per interval, would find an account that was claimed a moment after its last run not quite due, and would sync
# it only every second time. The random part spreads accounts that were added together.
CLAIM = """
RETURNS TABLE (tenant_id text, email_client_id text, user_id text, hostname text)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
AS $$
  WITH RECURSIVE tenant (id) AS (
    SELECT coalesce((
      SELECT min(account.tenant_id) FROM public.email_client AS account
      WHERE account.is_enabled AND account.is_sync_enabled AND account.paused_at IS NULL
        AND is_inclusive AND account.tenant_id = after_tenant
    ), (
      SELECT min(account.tenant_id) FROM public.email_client AS account
      WHERE account.is_enabled AND account.is_sync_enabled AND account.paused_at IS NULL
        AND account.tenant_id > after_tenant
    ))
    UNION ALL
    SELECT (
      SELECT min(account.tenant_id) FROM public.email_client AS account
      WHERE account.is_enabled AND account.is_sync_enabled AND account.paused_at IS NULL
        AND account.tenant_id > tenant.id
    )
    FROM tenant WHERE tenant.id IS NOT NULL
  ), due AS (
    SELECT found.tenant_id, found.id
    FROM tenant CROSS JOIN LATERAL (
      SELECT account.tenant_id, account.id FROM public.email_client AS account
      WHERE account.is_enabled AND account.is_sync_enabled AND account.paused_at IS NULL
        AND account.tenant_id = tenant.id
        AND account.next_sync_at <= now()
        AND coalesce(account.sync_queued_at, '-infinity') + make_interval(secs => queue_seconds) <= now()
        AND coalesce(account.lease_until, '-infinity') <= now()
      ORDER BY account.next_sync_at
      LIMIT max_per_tenant
      FOR UPDATE SKIP LOCKED
    ) AS found
    LIMIT max_accounts
  )
  UPDATE public.email_client AS claimed
  SET sync_queued_at = now(),
      next_sync_at = now() + make_interval(secs => claimed.sync_interval * (0.8 + 0.1 * random()))
  FROM due
  WHERE claimed.tenant_id = due.tenant_id AND claimed.id = due.id
  RETURNING claimed.tenant_id, claimed.id, claimed.user_id, claimed.hostname
$$
"""

UNCLAIM = """
RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
AS $$
  UPDATE public.email_client AS claimed
  SET sync_queued_at = NULL, next_sync_at = now() + make_interval(secs => wait_seconds)
  FROM unnest(tenant_ids, account_ids) AS given (tenant_id, id)
  WHERE claimed.tenant_id = given.tenant_id AND claimed.id = given.id
$$
"""

# The lock lasts until the caller's transaction ends, so that two callers at once do not take the same last place.
HOST_HAS_ROOM = """
RETURNS boolean
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
AS $$
  SELECT pg_advisory_xact_lock(hashtextextended(host, 0));
  SELECT count(*) < max_connections FROM public.email_client
  WHERE hostname = host AND lease_owner IS NOT NULL AND lease_until > clock_timestamp()
$$
"""

CLAIM_OF_0001 = """
RETURNS TABLE (tenant_id text, email_client_id text, user_id text)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
AS $$
  UPDATE public.email_client AS claimed
  SET sync_queued_at = now()
  FROM (
    SELECT due.tenant_id, due.id
    FROM public.email_client AS due
    WHERE due.is_enabled AND due.is_sync_enabled AND due.paused_at IS NULL AND due.protocol = 'imap'
      AND coalesce(greatest(due.last_sync_at, due.last_error_at), '-infinity')
          + make_interval(secs => due.sync_interval * 0.9) <= now()
      AND coalesce(due.sync_queued_at, '-infinity') + make_interval(secs => queue_seconds) <= now()
      AND coalesce(due.lease_until, '-infinity') <= now()
    ORDER BY due.last_sync_at NULLS FIRST
    LIMIT max_accounts
    FOR UPDATE SKIP LOCKED
  ) AS due
  WHERE claimed.tenant_id = due.tenant_id AND claimed.id = due.id
  RETURNING claimed.tenant_id, claimed.id, claimed.user_id
$$
"""


def upgrade() -> None:
    op.add_column(
        "email_client",
        sa.Column("next_sync_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
    )
    op.add_column("email_client", sa.Column("failing_since", sa.DateTime(timezone=True), nullable=True))
    op.execute(
        "UPDATE email_client SET next_sync_at = greatest(last_sync_at, last_error_at) "
        "+ make_interval(secs => sync_interval * 0.8) WHERE coalesce(last_sync_at, last_error_at) IS NOT NULL"
    )
    op.drop_index("email_client_due_idx", "email_client")
    op.create_index(
        "email_client_due_idx",
        "email_client",
        ["tenant_id", "next_sync_at"],
        postgresql_where=sa.text("is_enabled AND is_sync_enabled AND paused_at IS NULL"),
    )
    op.create_index(
        "email_client_leased_idx", "email_client", ["hostname"], postgresql_where=sa.text("lease_owner IS NOT NULL")
    )
    op.execute("DROP FUNCTION claim_due_accounts")
    create_definer_function(
        "claim_due_accounts(after_tenant text, is_inclusive boolean, max_accounts integer, max_per_tenant integer, "
        "queue_seconds integer)",
        CLAIM,
    )
    create_definer_function("unclaim_accounts(tenant_ids text[], account_ids text[], wait_seconds integer)", UNCLAIM)
    create_definer_function("host_has_room(host text, max_connections integer)", HOST_HAS_ROOM)


def downgrade() -> None:
    op.execute("DROP FUNCTION host_has_room")
    op.execute("DROP FUNCTION unclaim_accounts")
    op.execute("DROP FUNCTION claim_due_accounts")
    create_definer_function("claim_due_accounts(max_accounts integer, queue_seconds integer)", CLAIM_OF_0001)
    op.drop_index("email_client_leased_idx", "email_client")
    op.drop_index("email_client_due_idx", "email_client")
    op.create_index(
        "email_client_due_idx",
        "email_client",
        ["last_sync_at"],
        postgresql_where=sa.text("is_enabled AND is_sync_enabled"),
    )
    op.drop_column("email_client", "failing_since")
    op.drop_column("email_client", "next_sync_at")
