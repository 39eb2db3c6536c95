"""Mailboxes that are watched: which watcher has which account, and the functions by which watchers share accounts.

A watcher's lease is one row of `mail_watcher`, not a time on each of its accounts: so ten thousand accounts cost one
update every few seconds. An account is a watcher's while `watched_by` names it. Whoever looks next deletes the row of
a watcher that is dead and gives up its accounts, in one statement (docs/decisions/0041).
"""

import sqlalchemy as sa
from alembic import op

from tasks.storage.migrations.tenancy import create_definer_function

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

CAN_BE_WATCHED = """
is_enabled AND is_sync_enabled AND paused_at IS NULL AND protocol = 'imap' AND watch <> 'off'
AND last_sync_at IS NOT NULL
"""
_SQL = "LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp"
_NAMED = "length(watcher) BETWEEN 1 AND 200"
# An account that is watched no more is polled again as often as before.
_GIVEN_UP = """
watched_by = NULL, watched_since = NULL,
next_sync_at = least(account.next_sync_at, now() + make_interval(secs => account.sync_interval * random()))
"""

# How many accounts the watcher is to have, so that all watchers have as many, and how many it has.
_SHARE = f"""share AS (
    SELECT least(max_accounts, ceil(count(*)::numeric / greatest(1, (SELECT count(*) FROM public.mail_watcher))))
             AS accounts,
           count(*) FILTER (WHERE watched_by = watcher) AS mine
    FROM public.email_client WHERE {CAN_BE_WATCHED}
  )"""

RELEASE_DEAD = f"""
RETURNS bigint
{_SQL}
AS $$
  WITH dead AS (
    DELETE FROM public.mail_watcher WHERE alive_until <= clock_timestamp() RETURNING id
  ), released AS (
    UPDATE public.email_client AS account SET {_GIVEN_UP}
    FROM dead WHERE account.watched_by = dead.id
    RETURNING 1
  )
  SELECT count(*) FROM released
$$
"""

RENEW = f"""
RETURNS void
{_SQL}
AS $$
  SELECT public.refuse_unless({_NAMED}, 'renew_watcher: watcher is not a name');
  SELECT public.refuse_unless(seconds BETWEEN 1 AND 3600, 'renew_watcher: seconds is not from 1 to 3,600');
  INSERT INTO public.mail_watcher (id, alive_until)
  VALUES (watcher, clock_timestamp() + make_interval(secs => seconds))
  ON CONFLICT (id) DO UPDATE SET alive_until = excluded.alive_until;
  SELECT public.release_dead_watchers();
  UPDATE public.email_client AS account SET {_GIVEN_UP}
  WHERE account.watched_by = watcher AND ({CAN_BE_WATCHED}) IS NOT TRUE;
$$
"""

END = f"""
RETURNS void
{_SQL}
AS $$
  SELECT public.refuse_unless({_NAMED}, 'end_watcher: watcher is not a name');
  UPDATE public.email_client AS account SET {_GIVEN_UP} WHERE account.watched_by = watcher;
  DELETE FROM public.mail_watcher WHERE id = watcher;
$$
"""

# One watcher claims at a time, so that together they do not pass the limit of a mail server. Watchers get half of the
# connections that a mail server may have (host_limits: by its name, or `*` for any other; 0 is no limit); syncs have
# the rest. An account that fails is left to its schedule: thousands of a server that is down would be in the way of
# all others.
CLAIM = f"""
RETURNS bigint
{_SQL}
AS $$
  SELECT public.refuse_unless({_NAMED}, 'claim_watches: watcher is not a name');
  SELECT public.refuse_unless(
    max_accounts BETWEEN 1 AND 1000000, 'claim_watches: max_accounts is not from 1 to 1,000,000');
  SELECT public.refuse_unless(max_claims BETWEEN 0 AND 10000, 'claim_watches: max_claims is not from 0 to 10,000');
  SELECT public.refuse_unless(jsonb_typeof(host_limits) = 'object', 'claim_watches: host_limits is not an object');
  SELECT pg_advisory_xact_lock(hashtextextended('claim_watches', 0));
  WITH {_SHARE}, too_many AS (
    SELECT account.tenant_id, account.id FROM public.email_client AS account
    WHERE account.watched_by = watcher
    ORDER BY account.watched_since DESC NULLS FIRST
    LIMIT (SELECT greatest(0, least(max_claims, mine - accounts))::bigint FROM share)
  )
  UPDATE public.email_client AS account SET {_GIVEN_UP}
  FROM too_many WHERE account.tenant_id = too_many.tenant_id AND account.id = too_many.id;
  WITH {_SHARE}, held AS (
    SELECT hostname, count(*) AS connections FROM public.email_client
    WHERE watched_by IS NOT NULL AND host_limits <> '{{}}'::jsonb
    GROUP BY hostname
  ), free AS (
    SELECT account.tenant_id, account.id, account.watch, account.last_sync_at,
           nullif(coalesce(host_limits ->> account.hostname, host_limits ->> '*')::integer, 0) / 2 AS most,
           row_number() OVER (
             PARTITION BY account.hostname ORDER BY account.watch = 'on' DESC, account.last_sync_at
           ) + coalesce(held.connections, 0) AS place
    FROM public.email_client AS account LEFT JOIN held ON held.hostname = account.hostname
    WHERE {CAN_BE_WATCHED} AND watched_by IS NULL AND coalesce(watch_retry_at, '-infinity') <= now()
      AND failing_since IS NULL
      AND EXISTS (SELECT FROM public.mail_watcher WHERE id = watcher)
  ), chosen AS (
    SELECT free.tenant_id, free.id FROM free
    WHERE free.most IS NULL OR free.place <= free.most
    ORDER BY free.watch = 'on' DESC, free.last_sync_at
    LIMIT (SELECT greatest(0, least(max_claims, accounts - mine))::bigint FROM share)
  ), claimed AS (
    UPDATE public.email_client AS account SET watched_by = watcher, watched_since = NULL, watch_retry_at = NULL
    FROM chosen
    WHERE account.tenant_id = chosen.tenant_id AND account.id = chosen.id AND account.watched_by IS NULL
    RETURNING 1
  )
  SELECT count(*) FROM claimed
$$
"""

# `login` changes when the server or the login of the account does. The account is well if a sync went well since the
# connection was made.
LIST = f"""
RETURNS TABLE (tenant_id text, user_id text, id text, hostname text, login text, is_well boolean)
{_SQL}
AS $$
  SELECT public.refuse_unless({_NAMED}, 'list_watches: watcher is not a name');
  SELECT account.tenant_id, account.user_id, account.id, account.hostname,
         md5(concat_ws('/', account.hostname, account.port, account.encryption, account.username,
                       account.credential_id)),
         coalesce(account.failing_since IS NULL AND account.last_sync_at > account.watched_since, false)
  FROM public.email_client AS account WHERE account.watched_by = watcher
$$
"""

# A sync is queued for an account that is this watcher's, that no sync waits for and none is at work on. One that was
# queued longer ago than `queue_seconds` has expired, or its message was lost. What failed waits for its schedule.
# The folder is that of the path; NULL where the whole account is meant, or nobody knows it.
CLAIM_SYNCS = f"""
RETURNS TABLE (tenant_id text, email_client_id text, user_id text, hostname text, folder_id text)
{_SQL}
AS $$
  SELECT public.refuse_unless({_NAMED}, 'claim_watched_syncs: watcher is not a name');
  SELECT public.refuse_unless(
    cardinality(tenant_ids) <= 10000, 'claim_watched_syncs: tenant_ids is not a list of at most 10,000');
  SELECT public.refuse_unless(
    cardinality(account_ids) = cardinality(tenant_ids),
    'claim_watched_syncs: account_ids is not a list as long as that of the tenants');
  SELECT public.refuse_unless(
    cardinality(paths) = cardinality(tenant_ids),
    'claim_watched_syncs: paths is not a list as long as that of the tenants');
  SELECT public.refuse_unless(
    queue_seconds BETWEEN 0 AND 2592000, 'claim_watched_syncs: queue_seconds is not from 0 to 30 days');
  UPDATE public.email_client AS account SET sync_queued_at = now()
  FROM unnest(tenant_ids, account_ids, paths) AS given (tenant_id, id, path)
  LEFT JOIN public.email_folder AS folder
    ON folder.tenant_id = given.tenant_id AND folder.email_client_id = given.id AND folder.path = given.path
  WHERE account.tenant_id = given.tenant_id AND account.id = given.id AND account.watched_by = watcher
    AND {CAN_BE_WATCHED}
    AND coalesce(account.sync_queued_at + make_interval(secs => queue_seconds) <= now(), true)
    AND (coalesce(account.lease_until, '-infinity') <= now() OR account.lease_owner LIKE 'background/%')
    AND (account.failing_since IS NULL OR account.next_sync_at <= now())
  RETURNING account.tenant_id, account.id, account.user_id, account.hostname, folder.id
$$
"""

# The watchers that are alive, with how many accounts each has, and for how many of them it has a connection.
COUNT = f"""
RETURNS TABLE (watcher text, accounts bigint, connected bigint)
{_SQL}
AS $$
  SELECT watcher.id, count(account.watched_by), count(account.watched_since)
  FROM public.mail_watcher AS watcher LEFT JOIN public.email_client AS account ON account.watched_by = watcher.id
  WHERE watcher.alive_until > clock_timestamp()
  GROUP BY watcher.id
$$
"""

# As before, but for the connections of watchers, which count too.
_HOST_HAS_ROOM = f"""
RETURNS boolean
{_SQL}
AS $$
  SELECT public.refuse_unless(length(host) <= 1000, 'host_has_room: host is not a host name');
  SELECT public.refuse_unless(max_connections > 0, 'host_has_room: max_connections is not a number above 0');
  SELECT pg_advisory_xact_lock(hashtextextended(host, 0));
  SELECT count(*){{watched}} < max_connections FROM public.email_client
  WHERE hostname = host AND lease_owner IS NOT NULL AND lease_until > clock_timestamp()
$$
"""
_WATCHED = """ + (
    SELECT count(*) FROM public.email_client AS watched
    WHERE watched.hostname = host AND watched.watched_by IS NOT NULL
  )"""
HOST_HAS_ROOM = "host_has_room(host text, max_connections integer)"

FUNCTIONS = {
    "release_dead_watchers()": RELEASE_DEAD,
    "renew_watcher(watcher text, seconds integer)": RENEW,
    "end_watcher(watcher text)": END,
    "claim_watches(watcher text, max_accounts integer, max_claims integer, host_limits jsonb)": CLAIM,
    "list_watches(watcher text)": LIST,
    "count_watches()": COUNT,
    "claim_watched_syncs(watcher text, tenant_ids text[], account_ids text[], paths text[], queue_seconds integer)": (
        CLAIM_SYNCS
    ),
}


def upgrade() -> None:
    op.create_table(
        "mail_watcher",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("alive_until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    # The row of a watcher is of no tenant. Only the functions below, which run as the owner, read or write it.
    op.execute("ALTER TABLE mail_watcher ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE mail_watcher FORCE ROW LEVEL SECURITY")
    op.execute("CREATE POLICY owner ON mail_watcher TO CURRENT_USER USING (true) WITH CHECK (true)")
    op.add_column("email_client", sa.Column("watch", sa.Text(), server_default=sa.text("'auto'"), nullable=False))
    op.create_check_constraint(op.f("email_client_watch_check"), "email_client", "watch IN ('auto', 'on', 'off')")
    op.add_column("email_client", sa.Column("watched_by", sa.Text(), nullable=True))
    for name in ("watched_since", "watch_retry_at"):
        op.add_column("email_client", sa.Column(name, sa.DateTime(timezone=True), nullable=True))
    op.add_column("email_client", sa.Column("watch_problem", sa.Text(), nullable=True))
    op.create_index(
        "email_client_watched_idx", "email_client", ["watched_by"], postgresql_where=sa.text("watched_by IS NOT NULL")
    )
    op.create_index(
        "email_client_watched_host_idx",
        "email_client",
        ["hostname"],
        postgresql_where=sa.text("watched_by IS NOT NULL"),
    )
    for signature, definition in FUNCTIONS.items():
        create_definer_function(signature, definition)
    _replace_host_has_room(_WATCHED)


def downgrade() -> None:
    _replace_host_has_room("")
    for signature in reversed(FUNCTIONS):
        op.execute(f"DROP FUNCTION {signature.partition('(')[0]}")
    op.drop_index("email_client_watched_host_idx", "email_client")
    op.drop_index("email_client_watched_idx", "email_client")
    op.drop_constraint("email_client_watch_check", "email_client")
    for name in ("watch_problem", "watch_retry_at", "watched_since", "watched_by", "watch"):
        op.drop_column("email_client", name)
    op.drop_table("mail_watcher")


def _replace_host_has_room(watched: str) -> None:
    definition = _HOST_HAS_ROOM.format(watched=watched)
    op.get_bind().exec_driver_sql(f"CREATE OR REPLACE FUNCTION {HOST_HAS_ROOM} {definition}")
