"""What a restored database has to know of itself: up to where its events are those of the time before, which mail may
have been sent since, and that the tasks queued in SQL may have been published.

Positions of events begin with the number of a transaction. A restored database gives out again the numbers that were
given out after the restored moment, for other transactions. So from a restore on an offset is added, which makes all
numbers larger than any of before: a position from the time that was lost is told from all others (decision 0050).
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from tasks.storage.migrations.tenancy import create_definer_function

revision = "0033"
down_revision = "0032"
branch_labels = None
depends_on = None

SEARCH_PATH = "SET search_path = pg_catalog, public, pg_temp"
TYPES = (
    *("message.created", "message.updated", "message.deleted", "message.sent", "message.failed", "message.unknown"),
    *("folder.created", "folder.renamed", "folder.deleted", "folder.renumbered"),
    *("account.synced", "account.reread", "account.failing", "account.paused", "account.resumed", "account.removed"),
    "webhook.disabled",
)
# No database has so many transactions in a second, so numbers that begin with the second of the restore are larger
# than all that any history of this database has given out before.
TRANSACTIONS_A_SECOND = 100_000_000
OFFSET = "public.event_offset()"
THIS_TRANSACTION = "((pg_current_xact_id())::text)::bigint"

# A constant, which a restore replaces: it becomes a part of each statement that calls it, and costs nothing.
EVENT_OFFSET = (
    "FUNCTION public.event_offset() RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT %s::bigint'"
)

LOST = """
    IF EXISTS (
      SELECT FROM database_restore AS restored
      WHERE restored.ended_at < from_transaction AND from_transaction < restored.began_at
    ) THEN
      RAISE EXCEPTION 'events_after: the position % is of the time that a restore of the database took back', after
        USING ERRCODE = 'object_not_in_prerequisite_state',
        HINT = 'Read the rows themselves anew, then the events after an empty string.';
    END IF;
"""


def events_after(offset: str, lost: str) -> str:
    """The function, with what is added to the numbers of transactions."""
    return f"""
CREATE OR REPLACE FUNCTION events_after(after text, max_events integer)
RETURNS TABLE (
  "position" text, id text, type text, email_client_id text, created_at timestamptz, data jsonb
)
LANGUAGE plpgsql VOLATILE {SEARCH_PATH} AS $$
DECLARE
  tenant text := current_setting('metabuilder.tenant_id', true);
  oldest_open bigint := pg_snapshot_xmin(pg_current_snapshot())::text::bigint{offset};
  not_begun bigint := pg_snapshot_xmax(pg_current_snapshot())::text::bigint{offset};
  from_transaction bigint := 0;
  from_number bigint := 0;
BEGIN
  IF max_events IS NULL OR max_events NOT BETWEEN 1 AND 10000 THEN
    RAISE EXCEPTION 'events_after: max_events must be between 1 and 10000'
      USING ERRCODE = 'invalid_parameter_value';
  END IF;
  IF after <> '' THEN
    IF after !~ '^[0-9]{{1,18}}-[0-9]{{1,18}}$' THEN
      RAISE EXCEPTION 'events_after: this is no position of an event' USING ERRCODE = 'invalid_parameter_value',
        HINT = 'Use the position of an event that you got, or an empty string for the oldest event that is kept.';
    END IF;
    from_transaction := split_part(after, '-', 1)::bigint;
    from_number := split_part(after, '-', 2)::bigint;
    IF from_transaction > not_begun THEN
      RAISE EXCEPTION 'events_after: the position % is not of this database', after
        USING ERRCODE = 'object_not_in_prerequisite_state',
        HINT = 'Was the database restored? Read the rows themselves anew, then the events after an empty string.';
    END IF;{lost}
  END IF;
  RETURN QUERY
    SELECT event.transaction_id || '-' || event.number, event.id, event.type, event.email_client_id,
           event.created_at, event.data
    FROM event
    WHERE event.tenant_id = tenant AND event.transaction_id < oldest_open
      AND (event.transaction_id, event.number) > (from_transaction, from_number)
    ORDER BY event.transaction_id, event.number
    LIMIT max_events;
  IF after <> '' AND EXISTS (
    SELECT FROM event_dropped AS dropped
    WHERE dropped.tenant_id = tenant AND dropped.transaction_id < not_begun
      AND (dropped.transaction_id, dropped.number) > (from_transaction, from_number)
  ) THEN
    RAISE EXCEPTION 'events_after: events after the position % are kept no more', after
      USING ERRCODE = 'object_not_in_prerequisite_state',
      HINT = 'Read the rows themselves anew, then the events after an empty string.';
  END IF;
END
$$
"""


def event_position_now(offset: str) -> str:
    """The function, with what is added to the numbers of transactions."""
    number = (
        f"(pg_snapshot_xmin(pg_current_snapshot())::text::bigint{offset})"
        if offset
        else ("pg_snapshot_xmin(pg_current_snapshot())")
    )
    return f"""
CREATE OR REPLACE FUNCTION event_position_now() RETURNS text LANGUAGE plpgsql STABLE {SEARCH_PATH} AS $$
BEGIN
  RETURN {number}::text || '-0';
END
$$
"""


def events_held_back(offset: str) -> str:
    """The function, with what is added to the numbers of transactions."""
    return f"""
CREATE OR REPLACE FUNCTION events_held_back() RETURNS bigint LANGUAGE plpgsql STABLE {SEARCH_PATH} AS $$
BEGIN
  RETURN (
    SELECT count(*) FROM event
    WHERE event.tenant_id = current_setting('metabuilder.tenant_id', true)
      AND event.transaction_id >= pg_snapshot_xmin(pg_current_snapshot())::text::bigint{offset}
      AND event.transaction_id < pg_snapshot_xmax(pg_current_snapshot())::text::bigint{offset}
  );
END
$$
"""


def _waits(comparison: str, offset: str) -> str:
    return f"""
  webhook.is_enabled AND webhook.next_try_at <= clock_timestamp()
  AND EXISTS (
    SELECT FROM public.event
    WHERE event.tenant_id = webhook.tenant_id
      AND (event.transaction_id, event.number) > (webhook.transaction_id, webhook.number)
      AND event.transaction_id {comparison} pg_snapshot_xmin(pg_current_snapshot())::text::bigint{offset}
  )
"""


def claim_webhooks(offset: str) -> str:
    """The function, with what is added to the numbers of transactions."""
    return f"""
CREATE OR REPLACE FUNCTION claim_webhooks(run text, max_webhooks integer, seconds integer)
RETURNS TABLE (tenant_id text, webhook_id text)
LANGUAGE sql VOLATILE SECURITY DEFINER {SEARCH_PATH} AS $$
  SELECT public.refuse_unless(run <> '' AND length(run) <= 200, 'claim_webhooks: run is not a name');
  SELECT public.refuse_unless(
    max_webhooks BETWEEN 1 AND 1000, 'claim_webhooks: max_webhooks is not from 1 to 1,000'
  );
  SELECT public.refuse_unless(seconds BETWEEN 1 AND 3600, 'claim_webhooks: seconds is not from 1 to 3,600');
  WITH due AS (
    SELECT webhook.tenant_id, webhook.id FROM public.webhook
    WHERE (webhook.claimed_until IS NULL OR webhook.claimed_until < clock_timestamp())
      AND (({_waits("<", offset)}) OR (
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


def webhooks_held_back(offset: str) -> str:
    """The function, with what is added to the numbers of transactions."""
    return f"""
CREATE OR REPLACE FUNCTION webhooks_held_back() RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER {SEARCH_PATH} AS $$
  SELECT EXISTS (SELECT FROM public.webhook WHERE {_waits(">=", offset)});
$$
"""


# What is known of a restore that was begun: nothing is done twice. The lock keeps the events of others from coming
# between those of the time before and those after.
SETTLE = f"""
RETURNS TABLE (is_new boolean, is_finished boolean, restored_to timestamptz, found jsonb)
LANGUAGE plpgsql SECURITY DEFINER {SEARCH_PATH} AS $$
#variable_conflict use_column
DECLARE
  ended bigint;
  began bigint;
  searched bigint;
  undecided bigint;
  copies bigint;
  failed bigint;
  tasks bigint;
  why CONSTANT text := 'The database was restored: the message may have been sent after the moment that it was '
    'restored to';
BEGIN
  PERFORM public.refuse_unless(
    restore_name ~ '^[0-9A-Za-z:._-]{{1,64}}$', 'settle_restore: restore_name is not a name');
  PERFORM public.refuse_unless(
    isfinite(moment) AND moment BETWEEN '2000-01-01' AND now() + interval '1 day', 'settle_restore: moment');
  PERFORM pg_advisory_xact_lock(hashtextextended('settle_restore', 0));
  IF EXISTS (SELECT FROM public.database_restore WHERE name = restore_name) THEN
    RETURN QUERY SELECT false, finished_at IS NOT NULL, restored_to, found
      FROM public.database_restore WHERE name = restore_name;
    RETURN;
  END IF;
  LOCK TABLE public.event IN SHARE ROW EXCLUSIVE MODE;

  -- Events go on with larger numbers than any that was ever given out.
  SELECT greatest(
    (SELECT max(transaction_id) FROM public.event), (SELECT max(transaction_id) FROM public.event_dropped),
    (SELECT max(transaction_id) FROM public.webhook), (SELECT max(began_at) FROM public.database_restore), 0
  ) INTO ended;
  began := greatest(floor(extract(epoch FROM clock_timestamp()))::bigint * {TRANSACTIONS_A_SECOND}, ended + 1);
  EXECUTE format($offset$CREATE OR REPLACE {EVENT_OFFSET}$offset$, began - {THIS_TRANSACTION});
  INSERT INTO public.database_restore (name, restored_to, ended_at, began_at)
  VALUES (restore_name, moment, ended, began);
  INSERT INTO public.event (tenant_id, email_client_id, type, data)
  SELECT tenant_id, '', 'database.restored', jsonb_build_object('restored_to', moment)
  FROM (
    SELECT tenant_id FROM public.email_client UNION SELECT tenant_id FROM public.webhook
    UNION SELECT tenant_id FROM public.event UNION SELECT tenant_id FROM public.event_dropped
  ) AS tenant;

  -- Mail that was not sent yet may have been since. It is looked for in the Sent folder; a copy there says nothing of
  -- the other recipients where some had the message before, so these wait for a person.
  WITH before AS (
    SELECT tenant_id, id, state,
           NOT recipients @> '[{{"state": "accepted"}}]' AS can_be_searched
    FROM public.outbox_message WHERE state IN ('queued', 'sending', 'unknown') FOR UPDATE
  ), changed AS (
    UPDATE public.outbox_message AS message
    SET state = 'unknown', attempts = 0, owner = NULL, asked_at = clock_timestamp(),
        data_at = coalesce(message.data_at, clock_timestamp()), dispatched_at = '-infinity',
        next_try_at = CASE WHEN before.can_be_searched THEN clock_timestamp() END,
        recipients = (
          SELECT jsonb_agg(CASE recipient ->> 'state'
            WHEN 'pending' THEN recipient || '{{"state": "offered"}}' ELSE recipient
          END ORDER BY place)
          FROM jsonb_array_elements(message.recipients) WITH ORDINALITY AS listed (recipient, place)
        ),
        last_error_code = 'maybe_sent', last_error = why, updated_at = clock_timestamp()
    FROM before WHERE message.tenant_id = before.tenant_id AND message.id = before.id
    RETURNING message.tenant_id, message.id, message.email_client_id, message.message_id, message.key,
              message.recipients, before.state AS old_state, before.can_be_searched
  ), told AS (
    INSERT INTO public.event (tenant_id, email_client_id, type, data)
    SELECT tenant_id, email_client_id, 'message.unknown', jsonb_strip_nulls(jsonb_build_object(
      'outbox_id', id, 'message_id', message_id, 'error_code', 'maybe_sent',
      'idempotency_key', CASE WHEN starts_with(key, 'key:') THEN substr(key, 5) END,
      'task_id', CASE WHEN starts_with(key, 'task:') THEN substr(key, 6) END,
      'recipients_accepted',
        jsonb_array_length(jsonb_path_query_array(recipients, '$[*] ? (@.state == "accepted")')),
      'recipients_refused',
        jsonb_array_length(jsonb_path_query_array(recipients, '$[*] ? (@.state == "refused")'))
    ))
    FROM changed WHERE old_state <> 'unknown'
  )
  SELECT count(*) FILTER (WHERE can_be_searched), count(*) FILTER (WHERE NOT can_be_searched)
  INTO searched, undecided FROM changed;

  -- A copy is filed only where none is found, so it may be tried at once.
  UPDATE public.outbox_message SET owner = NULL, next_try_at = clock_timestamp(), dispatched_at = '-infinity'
  WHERE state = 'accepted';
  GET DIAGNOSTICS copies = ROW_COUNT;
  -- Another call for a message that had failed may have sent it; the next one looks for it first.
  UPDATE public.outbox_message SET data_at = clock_timestamp() WHERE state = 'failed';
  GET DIAGNOSTICS failed = ROW_COUNT;
  -- Beat may have published these; what is no mail may be done twice.
  UPDATE public.queued_task SET error = 'maybe_sent: ' || why, next_try_at = 'infinity'
  WHERE name IN ('send_email', 'send_waiting');
  GET DIAGNOSTICS tasks = ROW_COUNT;

  RETURN QUERY UPDATE public.database_restore
    SET found = jsonb_build_object(
      'searched', searched, 'undecided', undecided, 'copies', copies, 'failed', failed, 'queued_in_sql', tasks)
    WHERE name = restore_name
    RETURNING true, false, restored_to, found;
END
$$
"""
FINISH = f"""
RETURNS void
LANGUAGE sql SECURITY DEFINER {SEARCH_PATH} AS $$
  SELECT public.refuse_unless(restore_name <> '', 'finish_restore: restore_name is not a name');
  UPDATE public.database_restore SET finished_at = now() WHERE name = restore_name AND finished_at IS NULL
$$
"""
CHANGED = (events_held_back, event_position_now, claim_webhooks, webhooks_held_back)


def upgrade() -> None:
    op.create_table(
        "database_restore",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("restored_to", sa.DateTime(timezone=True), nullable=False),
        sa.Column("settled_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.BigInteger(), nullable=False),
        sa.Column("began_at", sa.BigInteger(), nullable=False),
        sa.Column(
            "found",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("name", name=op.f("database_restore_pkey")),
    )
    op.execute("ALTER TABLE database_restore ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE database_restore FORCE ROW LEVEL SECURITY")
    op.execute("CREATE POLICY reader ON database_restore FOR SELECT TO metabuilder USING (true)")
    op.execute("CREATE POLICY owner ON database_restore TO CURRENT_USER USING (true) WITH CHECK (true)")
    op.execute("GRANT SELECT ON database_restore TO metabuilder")
    op.execute(f"CREATE {EVENT_OFFSET % 0}")
    op.execute("REVOKE ALL ON FUNCTION event_offset FROM PUBLIC")
    op.execute("GRANT EXECUTE ON FUNCTION event_offset TO metabuilder")
    op.alter_column("event", "transaction_id", server_default=sa.text(f"({THIS_TRANSACTION} + event_offset())"))
    _replace_types((*TYPES, "database.restored"))
    op.execute(events_after(f" + {OFFSET}", LOST))
    for changed in CHANGED:
        op.execute(changed(f" + {OFFSET}"))
    create_definer_function("settle_restore(restore_name text, moment timestamptz)", SETTLE)
    create_definer_function("finish_restore(restore_name text)", FINISH)


def downgrade() -> None:
    for name in ("finish_restore", "settle_restore"):
        op.execute(f"DROP FUNCTION {name}")
    for changed in CHANGED:
        op.execute(changed(""))
    op.execute(events_after("", ""))
    op.execute("DELETE FROM event WHERE type = 'database.restored'")
    _replace_types(TYPES)
    op.alter_column("event", "transaction_id", server_default=sa.text(THIS_TRANSACTION))
    op.execute("DROP FUNCTION event_offset")
    op.drop_table("database_restore")


def _replace_types(types: tuple[str, ...]) -> None:
    op.execute("ALTER TABLE event DROP CONSTRAINT event_type_check")
    op.create_check_constraint(op.f("event_type_check"), "event", f"type IN ({', '.join(map(repr, types))})")
