"""Sent copies wait like mail, for the mailbox's server, and never take the place of mail.

Making the mail due that waits for a server is quick when
much mail waits, is bounded, and blocks no other transaction.
"""

import importlib

import sqlalchemy as sa
from alembic import op

from tasks.storage.migrations.tenancy import create_definer_function

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

# While a server is away, one message and one copy of each account are tried, and few of each server at once; those
# that are queued already count. A message or copy whose server has worked since (its dispatched_at is -infinity) does
# not wait for others. A message that is being sent for the first time does not count. Due rows are read first, by
# their index. Sent mail has a next_try_at in the past too, so PostgreSQL overestimates how many rows are due, and
# would read all mail of each account instead.
CLAIM = """
RETURNS TABLE (tenant_id text, outbox_id text, user_id text, task jsonb)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
AS $$
  SELECT public.refuse_unless(max_messages BETWEEN 1 AND 10000, 'claim_waiting_mail: max_messages');
  SELECT public.refuse_unless(max_probes BETWEEN 1 AND 10000, 'claim_waiting_mail: max_probes');
  SELECT public.refuse_unless(max_released BETWEEN 1 AND 10000, 'claim_waiting_mail: max_released');
  SELECT public.refuse_unless(lost_seconds BETWEEN 0 AND 2592000, 'claim_waiting_mail: lost_seconds');
  SELECT pg_advisory_xact_lock(hashtextextended('claim_waiting_mail', 0));
  WITH message AS MATERIALIZED (
    SELECT tenant_id, id, email_client_id, next_try_at, state IN ('accepted', 'unknown') AS at_mailbox,
           coalesce(dispatched_at = '-infinity', false) AS is_released,
           coalesce(dispatched_at + make_interval(secs => lost_seconds) > now(), false) AS is_queued
    FROM public.outbox_message
    WHERE state NOT IN ('sent', 'failed') AND next_try_at <= now()
      AND NOT ((state, attempts) IN (('sending', 1), ('accepted', 0))
               AND dispatched_at + make_interval(secs => lost_seconds) > now())
  ), due AS (
    SELECT message.*, account.user_id,
           lower(CASE WHEN at_mailbox THEN account.hostname ELSE account.smtp_hostname END) AS host
    FROM message
    JOIN public.email_client AS account
      ON account.tenant_id = message.tenant_id AND account.id = message.email_client_id
  ), of_account AS (
    SELECT *, row_number() OVER (
      PARTITION BY due.tenant_id, due.email_client_id, due.at_mailbox, due.is_released
      ORDER BY due.is_queued DESC, due.next_try_at
    ) AS place
    FROM due
  ), of_host AS (
    SELECT *, row_number() OVER (
      PARTITION BY probe.host, probe.at_mailbox, probe.is_released ORDER BY probe.is_queued DESC, probe.next_try_at
    ) AS place_at_host
    FROM of_account AS probe WHERE probe.is_released OR probe.place = 1
  ), chosen AS (
    SELECT * FROM of_host
    WHERE NOT of_host.is_queued
      AND of_host.place_at_host <= CASE WHEN of_host.is_released THEN max_released ELSE max_probes END
    ORDER BY of_host.next_try_at
    LIMIT max_messages
  )
  UPDATE public.outbox_message AS claimed
  SET dispatched_at = now()
  FROM chosen
  WHERE claimed.tenant_id = chosen.tenant_id AND claimed.id = chosen.id
  RETURNING claimed.tenant_id, claimed.id, chosen.user_id, claimed.task
$$
"""

# A success proves that the server works, so messages that could not reach the server become due;
# and that the account may log in, so its own messages become due. A message that the server did
# not take for now says nothing about other messages, and is tried at its own time. One success
# makes a thousand messages of a server due; the next success goes on with the others.
RELEASE = """
RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
AS $$
  SELECT public.refuse_unless(of_tenant IS NOT NULL AND of_account IS NOT NULL, '{name}: an account');
  WITH own AS MATERIALIZED (
    SELECT tenant_id, id, lower({hostname}) AS host
    FROM public.email_client
    WHERE tenant_id = of_tenant AND id = of_account
      AND pg_try_advisory_xact_lock(hashtextextended('{name} ' || lower({hostname}), 0))
  ), chosen AS (
    SELECT waiting.tenant_id, waiting.id
    FROM own
    JOIN public.email_client AS account ON lower(account.{hostname}) = own.host
    JOIN public.outbox_message AS waiting
      ON waiting.tenant_id = account.tenant_id AND waiting.email_client_id = account.id
    WHERE waiting.state IN ({states}) AND waiting.dispatched_at IS NULL AND waiting.next_try_at IS NOT NULL
      AND waiting.last_error_code <> 'server_busy'
      AND ((account.tenant_id, account.id) = (own.tenant_id, own.id) OR waiting.last_error_code IN (
        'server_unavailable', 'unknown_host', 'certificate_invalid', 'encryption_unavailable'
      ))
    LIMIT 1000
    FOR UPDATE OF waiting SKIP LOCKED
  )
  UPDATE public.outbox_message AS released
  SET attempts = 0, dispatched_at = '-infinity', next_try_at = least(released.next_try_at, now())
  FROM chosen
  WHERE released.tenant_id = chosen.tenant_id AND released.id = chosen.id
$$
"""
MAIL = RELEASE.format(name="release_waiting_mail", hostname="smtp_hostname", states="'queued'")
COPIES = RELEASE.format(name="release_waiting_copies", hostname="hostname", states="'accepted', 'unknown'")

# Counts mail only: a message that waits for its copy is sent.
COUNT = """
RETURNS TABLE (messages bigint, late bigint, oldest_seconds double precision)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
AS $$
  SELECT public.refuse_unless(late_seconds BETWEEN 0 AND 2592000, 'count_waiting_mail: late_seconds');
  SELECT count(*), count(*) FILTER (WHERE asked_at + make_interval(secs => late_seconds) <= now()),
         extract(epoch FROM now() - min(asked_at))::double precision
  FROM public.outbox_message
  WHERE state NOT IN ('sent', 'failed', 'accepted') AND next_try_at IS NOT NULL
$$
"""

CHANGED = {
    "claim_waiting_mail(max_messages integer, max_probes integer, max_released integer, lost_seconds integer)": CLAIM,
    "release_waiting_mail(of_tenant text, of_account text)": MAIL,
    "count_waiting_mail(late_seconds integer)": COUNT,
}


def upgrade() -> None:
    op.create_index(
        "outbox_message_waiting_idx",
        "outbox_message",
        ["tenant_id", "email_client_id"],
        postgresql_where=sa.text("dispatched_at IS NULL AND state IN ('queued', 'unknown', 'accepted')"),
    )
    for signature, definition in CHANGED.items():
        op.execute(f"CREATE OR REPLACE FUNCTION {signature} {definition}")
    create_definer_function("release_waiting_copies(of_tenant text, of_account text)", COPIES)


def downgrade() -> None:
    op.execute("DROP FUNCTION release_waiting_copies")
    before = importlib.import_module("tasks.storage.migrations.versions.0021_mail_that_waits")
    for signature, definition in zip(CHANGED, (before.CLAIM, before.RELEASE, before.COUNT), strict=True):
        op.execute(f"CREATE OR REPLACE FUNCTION {signature} {definition}")
    op.drop_index("outbox_message_waiting_idx", "outbox_message")
