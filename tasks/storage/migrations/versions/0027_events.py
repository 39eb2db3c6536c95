"""Events, which tell the application of changes: the table, how it is read, and how old ones go."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from tasks.storage.migrations.tenancy import create_definer_function, isolate_tenants

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

SLOTS = 16
TYPES = (
    *("message.created", "message.updated", "message.deleted", "message.sent", "message.failed", "message.unknown"),
    *("folder.created", "folder.renamed", "folder.deleted", "folder.renumbered"),
    *("account.synced", "account.reread", "account.failing", "account.paused", "account.resumed", "account.removed"),
)
SEARCH_PATH = "SET search_path = pg_catalog, public, pg_temp"

# A UUIDv7 (RFC 9562 section 5.7). PostgreSQL makes them by itself from version 18 on only.
EVENT_ID = f"""
CREATE FUNCTION event_id() RETURNS text LANGUAGE plpgsql VOLATILE {SEARCH_PATH} AS $$
BEGIN
  RETURN encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid())
    PLACING substring(int8send(floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3) FROM 1 FOR 6
  ), 52, 1), 53, 1), 'hex')::uuid::text;
END
$$
"""

# A reader may already have gone past events whose transaction a crash then takes back. So a transaction that has
# written events waits for the disk, whatever it said at its beginning.
EVENT_WRITTEN = f"""
CREATE FUNCTION event_written() RETURNS trigger LANGUAGE plpgsql {SEARCH_PATH} AS $$
BEGIN
  IF EXISTS (SELECT FROM written) THEN
    IF current_setting('synchronous_commit') = 'off' THEN
      PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    PERFORM pg_notify('metabuilder_event', '');
  END IF;
  RETURN NULL;
END
$$
"""

# Transactions commit in another order than they began in. A transaction older than every one that is still open
# (xmin) can get no company with a lower number any more, so only the events of such transactions are given.
# TRUNCATE takes rows from statements that began before it too. So the function is VOLATILE, which gives each of its
# statements a snapshot of its own, and looks for what was dropped after it has read.
EVENTS_AFTER = f"""
CREATE FUNCTION events_after(after text, max_events integer)
RETURNS TABLE (
  "position" text, id text, type text, email_client_id text, created_at timestamptz, data jsonb
)
LANGUAGE plpgsql VOLATILE {SEARCH_PATH} AS $$
DECLARE
  tenant text := current_setting('metabuilder.tenant_id', true);
  oldest_open bigint := pg_snapshot_xmin(pg_current_snapshot())::text::bigint;
  not_begun bigint := pg_snapshot_xmax(pg_current_snapshot())::text::bigint;
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
    END IF;
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
EVENT_POSITION_NOW = f"""
CREATE FUNCTION event_position_now() RETURNS text LANGUAGE plpgsql STABLE {SEARCH_PATH} AS $$
BEGIN
  RETURN pg_snapshot_xmin(pg_current_snapshot())::text || '-0';
END
$$
"""
EVENTS_HELD_BACK = f"""
CREATE FUNCTION events_held_back() RETURNS bigint LANGUAGE plpgsql STABLE {SEARCH_PATH} AS $$
BEGIN
  RETURN (
    SELECT count(*) FROM event
    WHERE event.tenant_id = current_setting('metabuilder.tenant_id', true)
      AND event.transaction_id >= pg_snapshot_xmin(pg_current_snapshot())::text::bigint
      AND event.transaction_id < pg_snapshot_xmax(pg_current_snapshot())::text::bigint
  );
END
$$
"""

# Nobody writes into a slot whose day is over, so its lock waits for nothing but readers at work, a backup among them.
# While it waits, others who read wait behind it, so it gives up soon, and the next run tries again; a slot that could
# not be emptied for a day is an error. The slots of today and yesterday are left alone: if no cleanup ran for days,
# they may hold events of SLOTS days before, and a lock would stop all who write.
EMPTY_OLD_SLOTS = f"""
RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
AS $$
DECLARE
  slot text;
  newest timestamptz;
  events bigint;
  removed bigint := 0;
  today bigint := floor(extract(epoch FROM now()) / 86400);
BEGIN
  PERFORM public.refuse_unless(retention_days BETWEEN 1 AND {SLOTS - 2}, 'empty_old_event_slots: retention_days');
  PERFORM set_config('lock_timeout', '1s', true);
  FOR slot IN
    SELECT format('event_%s', to_char(number, 'FM00')) FROM generate_series(0, {SLOTS - 1}) AS number
    WHERE number NOT IN (today % {SLOTS}, (today - 1) % {SLOTS})
  LOOP
    newest := NULL;
    BEGIN
      EXECUTE format('SELECT max(created_at) FROM (SELECT created_at FROM public.%I LIMIT 1) AS one', slot)
        INTO newest;
      CONTINUE WHEN newest IS NULL OR newest > now() - make_interval(days => retention_days);
      EXECUTE format('LOCK TABLE public.%I IN SHARE ROW EXCLUSIVE MODE', slot);
      EXECUTE format('SELECT max(created_at), count(*) FROM public.%I', slot) INTO newest, events;
      CONTINUE WHEN newest IS NULL OR newest > now() - make_interval(days => retention_days);
      EXECUTE format(
        'INSERT INTO public.event_dropped AS dropped (tenant_id, transaction_id, number) '
        'SELECT DISTINCT ON (tenant_id) tenant_id, transaction_id, number FROM public.%I '
        'ORDER BY tenant_id, transaction_id DESC, number DESC '
        'ON CONFLICT (tenant_id) DO UPDATE '
        'SET transaction_id = excluded.transaction_id, number = excluded.number '
        'WHERE (dropped.transaction_id, dropped.number) < (excluded.transaction_id, excluded.number)', slot
      );
      EXECUTE format('TRUNCATE public.%I', slot);
      removed := removed + events;
    EXCEPTION WHEN lock_not_available THEN
      IF newest < now() - make_interval(days => retention_days + 1) THEN
        RAISE;
      END IF;
    END;
  END LOOP;
  RETURN removed;
END
$$
"""
FOR_THE_APPLICATION = ("event_id", "events_after", "event_position_now", "events_held_back")


def upgrade() -> None:
    for function in (EVENT_ID, EVENT_WRITTEN):
        op.execute(function)
    op.execute("CREATE SEQUENCE event_number_seq")
    op.execute("GRANT USAGE ON SEQUENCE event_number_seq TO metabuilder")
    op.create_table(
        "event",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column(
            "transaction_id",
            sa.BigInteger(),
            server_default=sa.text("((pg_current_xact_id())::text)::bigint"),
            nullable=False,
        ),
        sa.Column(
            "number",
            sa.BigInteger(),
            autoincrement=False,
            server_default=sa.text("nextval('event_number_seq')"),
            nullable=False,
        ),
        sa.Column(
            "slot",
            sa.SmallInteger(),
            server_default=sa.text(f"(floor((EXTRACT(epoch FROM now()) / 86400)) % {SLOTS})::smallint"),
            nullable=False,
        ),
        sa.Column("id", sa.Text(), server_default=sa.text("event_id()"), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("email_client_id", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("data", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.CheckConstraint("tenant_id <> ''", name=op.f("event_tenant_id_check")),
        sa.CheckConstraint(f"type IN ({', '.join(map(repr, TYPES))})", name=op.f("event_type_check")),
        sa.PrimaryKeyConstraint("tenant_id", "transaction_id", "number", "slot", name=op.f("event_pkey")),
        postgresql_partition_by="LIST (slot)",
    )
    for slot in range(SLOTS):
        op.execute(f"CREATE TABLE event_{slot:02} PARTITION OF event FOR VALUES IN ({slot})")
    op.create_table(
        "event_dropped",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("transaction_id", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("tenant_id <> ''", name=op.f("event_dropped_tenant_id_check")),
        sa.PrimaryKeyConstraint("tenant_id", name=op.f("event_dropped_pkey")),
    )
    for table in ("event", "event_dropped"):
        isolate_tenants(table)
    # Events are written and read, never changed. Their partitions are granted to nobody.
    op.execute("REVOKE INSERT, UPDATE, DELETE ON event FROM metabuilder")
    # Position, slot and time are PostgreSQL's to say: a time of next year would keep all events of its slot.
    op.execute("GRANT INSERT (tenant_id, email_client_id, type, data) ON event TO metabuilder")
    op.execute("REVOKE INSERT, UPDATE, DELETE ON event_dropped FROM metabuilder")
    op.execute(
        "CREATE TRIGGER written AFTER INSERT ON event REFERENCING NEW TABLE AS written "
        "FOR EACH STATEMENT EXECUTE FUNCTION event_written()"
    )
    for function in (EVENTS_AFTER, EVENT_POSITION_NOW, EVENTS_HELD_BACK):
        op.execute(function)
    for name in (*FOR_THE_APPLICATION, "event_written"):
        op.execute(f"REVOKE ALL ON FUNCTION {name} FROM PUBLIC")
    for name in FOR_THE_APPLICATION:
        op.execute(f"GRANT EXECUTE ON FUNCTION {name} TO metabuilder")
    create_definer_function("empty_old_event_slots(retention_days integer)", EMPTY_OLD_SLOTS)


def downgrade() -> None:
    for name in ("empty_old_event_slots", "events_held_back", "event_position_now", "events_after"):
        op.execute(f"DROP FUNCTION {name}")
    op.drop_table("event_dropped")
    op.drop_table("event")
    op.execute("DROP SEQUENCE event_number_seq")
    for name in ("event_written", "event_id"):
        op.execute(f"DROP FUNCTION {name}")
