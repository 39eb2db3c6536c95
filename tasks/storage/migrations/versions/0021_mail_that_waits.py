"""When a message that is not sent is tried next, and the functions that look for such messages of all tenants."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from tasks.storage.migrations.tenancy import create_definer_function

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

# While a server is away, one message of each account is tried, and few accounts of each server at once; messages that
# are queued already count. A message whose server has worked since the message failed (its dispatched_at is
# -infinity) does not wait for others. A message that is being sent for the first time does not count.
CLAIM = """
RETURNS TABLE (tenant_id text, outbox_id text, user_id text, task jsonb)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
AS $$
  SELECT public.refuse_unless(max_messages BETWEEN 1 AND 10000, 'claim_waiting_mail: max_messages');
  SELECT public.refuse_unless(max_probes BETWEEN 1 AND 10000, 'claim_waiting_mail: max_probes');
  SELECT public.refuse_unless(max_released BETWEEN 1 AND 10000, 'claim_waiting_mail: max_released');
  SELECT public.refuse_unless(lost_seconds BETWEEN 0 AND 2592000, 'claim_waiting_mail: lost_seconds');
  SELECT pg_advisory_xact_lock(hashtextextended('claim_waiting_mail', 0));
  WITH due AS (
    SELECT message.tenant_id, message.id, message.email_client_id, account.user_id, message.next_try_at,
           lower(account.smtp_hostname) AS host, coalesce(message.dispatched_at = '-infinity', false) AS is_released,
           coalesce(message.dispatched_at + make_interval(secs => lost_seconds) > now(), false) AS is_queued
    FROM public.outbox_message AS message
    JOIN public.email_client AS account
      ON account.tenant_id = message.tenant_id AND account.id = message.email_client_id
    WHERE message.state NOT IN ('sent', 'failed') AND message.next_try_at <= now()
      AND NOT (message.state = 'sending' AND message.attempts = 1
               AND message.dispatched_at + make_interval(secs => lost_seconds) > now())
  ), of_account AS (
    SELECT *, row_number() OVER (
      PARTITION BY due.tenant_id, due.email_client_id, due.is_released ORDER BY due.is_queued DESC, due.next_try_at
    ) AS place
    FROM due
  ), of_host AS (
    SELECT *, row_number() OVER (
      PARTITION BY probe.host, probe.is_released ORDER BY probe.is_queued DESC, probe.next_try_at
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

# A message that was sent proves that the server works, so messages that could not reach the server become due; and
# that the account may log in, so its own messages become due. A message that the server did not take for now says
# nothing about other messages, and is tried at its own time.
RELEASE = """
RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
AS $$
  SELECT public.refuse_unless(of_tenant IS NOT NULL AND of_account IS NOT NULL, 'release_waiting_mail: an account');
  UPDATE public.outbox_message AS released
  SET attempts = 0, dispatched_at = '-infinity', next_try_at = least(released.next_try_at, now())
  FROM public.email_client AS account, public.email_client AS own
  WHERE own.tenant_id = of_tenant AND own.id = of_account
    AND lower(account.smtp_hostname) = lower(own.smtp_hostname)
    AND released.tenant_id = account.tenant_id AND released.email_client_id = account.id
    AND released.state = 'queued' AND released.dispatched_at IS NULL AND released.next_try_at IS NOT NULL
    AND released.last_error_code <> 'server_busy'
    AND ((account.tenant_id, account.id) = (own.tenant_id, own.id) OR released.last_error_code IN (
      'server_unavailable', 'unknown_host', 'certificate_invalid', 'encryption_unavailable'
    ))
$$
"""

COUNT = """
RETURNS TABLE (messages bigint, late bigint, oldest_seconds double precision)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
AS $$
  SELECT public.refuse_unless(late_seconds BETWEEN 0 AND 2592000, 'count_waiting_mail: late_seconds');
  SELECT count(*), count(*) FILTER (WHERE asked_at + make_interval(secs => late_seconds) <= now()),
         extract(epoch FROM now() - min(asked_at))::double precision
  FROM public.outbox_message
  WHERE state NOT IN ('sent', 'failed') AND next_try_at IS NOT NULL
$$
"""


def upgrade() -> None:
    for column in ("next_try_at", "dispatched_at"):
        op.add_column("outbox_message", sa.Column(column, sa.DateTime(timezone=True), nullable=True))
    op.add_column(
        "outbox_message",
        sa.Column("asked_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
    )
    op.add_column("outbox_message", sa.Column("task", postgresql.JSONB(astext_type=sa.Text()), nullable=True))
    op.create_index(
        "outbox_message_next_try_idx",
        "outbox_message",
        ["next_try_at"],
        postgresql_where=sa.text("state NOT IN ('sent', 'failed')"),
    )
    create_definer_function(
        "claim_waiting_mail(max_messages integer, max_probes integer, max_released integer, lost_seconds integer)",
        CLAIM,
    )
    create_definer_function("release_waiting_mail(of_tenant text, of_account text)", RELEASE)
    create_definer_function("count_waiting_mail(late_seconds integer)", COUNT)


def downgrade() -> None:
    op.execute("DROP FUNCTION count_waiting_mail")
    op.execute("DROP FUNCTION release_waiting_mail")
    op.execute("DROP FUNCTION claim_waiting_mail")
    op.drop_index("outbox_message_next_try_idx", "outbox_message")
    for column in ("task", "asked_at", "dispatched_at", "next_try_at"):
        op.drop_column("outbox_message", column)
