"""Tasks that the application queues in its own transaction: the table, the checks, and how beat takes the rows.

What a task takes is in the function `queueable_tasks`, as JSON. A test compares it with the tasks themselves: whoever
changes the arguments of a task replaces the function in a migration.
"""

import json

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from tasks.storage.migrations.tenancy import create_definer_function, isolate_tenants

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None

SEARCH_PATH = "SET search_path = pg_catalog, public, pg_temp"
_SQL = f"LANGUAGE sql SECURITY DEFINER {SEARCH_PATH}"

# For each argument the types of JSON that it may have; `required` where it has no default. Others may be null.
_NEEDED, _TEXT, _FLAG = {"types": ["string"], "required": True}, {"types": ["string"]}, {"types": ["boolean"]}
_ADDRESSES = {"types": ["string", "array"]}
_OWNERS = {"tenant_id": _NEEDED, "user_id": _NEEDED}
_OF_ACCOUNT = {"email_client_id": _NEEDED, **_OWNERS}
TASKS = {
    "sync_emails": {**_OF_ACCOUNT, "folder_id": _TEXT, "force_full_sync": _FLAG},
    "send_email": {
        **_OF_ACCOUNT,
        "to": {**_ADDRESSES, "required": True},
        "cc": _ADDRESSES,
        "bcc": _ADDRESSES,
        "subject": _TEXT,
        "body_text": _TEXT,
        "body_html": _TEXT,
        "attachment_ids": {"types": ["array"]},
        "idempotency_key": _TEXT,
    },
    "send_waiting": {"outbox_id": _NEEDED, **_OWNERS},
    "delete_emails": {"email_ids": {"types": ["array"], "required": True}, **_OWNERS, "permanent": _FLAG},
    "empty_trash": _OF_ACCOUNT,
    "check_spam": {"email_id": _NEEDED, **_OWNERS},
    "ask_spam_engines": _OF_ACCOUNT,
    "reread_messages": _OF_ACCOUNT,
}
QUEUEABLE_TASKS = f"""
CREATE FUNCTION queueable_tasks() RETURNS jsonb LANGUAGE sql IMMUTABLE PARALLEL SAFE {SEARCH_PATH} AS $$
  SELECT '{json.dumps(TASKS)}'::jsonb
$$
"""

# What a mistake is told with: what is wrong, with what, and what to do. No value of an argument is repeated.
_REFUSE = "USING ERRCODE = 'invalid_parameter_value'"
MAX_BYTES = 4 * 1024 * 1024
# What cannot be printed, as str.isprintable of Python has it: control and format characters, separators other than
# the space, private use.
UNPRINTABLE = (
    "[\\u0001-\\u001f\\u007f-\\u00a0\\u00ad\\u0600-\\u0605\\u061c\\u06dd\\u070f\\u1680\\u180e\\u2000-\\u200f"
    "\\u2028-\\u202f\\u205f-\\u206f\\u3000\\ue000-\\uf8ff\\ufeff\\ufff9-\\ufffb]"
)
# The same checks as of a call from Python (tasks/runtime/arguments.py), and that the account is the caller's.
QUEUED_TASK_CHECKED = f"""
CREATE FUNCTION queued_task_checked() RETURNS trigger LANGUAGE plpgsql {SEARCH_PATH} AS $$
DECLARE
  parameters jsonb;
  parameter text;
  kind jsonb;
  value jsonb;
BEGIN
  NEW.name := regexp_replace(NEW.name, '^email_service\\.tasks\\.', '');
  parameters := queueable_tasks() -> NEW.name;
  IF parameters IS NULL THEN
    RAISE EXCEPTION 'queue_task: no task has this name' {_REFUSE}, HINT = format(
      'The tasks are %s.',
      (SELECT string_agg(key, ', ' ORDER BY key) FROM jsonb_object_keys(queueable_tasks()) AS key)
    );
  END IF;
  IF jsonb_typeof(NEW.arguments) IS DISTINCT FROM 'object' THEN
    RAISE EXCEPTION 'queue_task: % needs its arguments as an object', NEW.name {_REFUSE},
      HINT = 'Such as jsonb_build_object(''user_id'', ''…'').';
  END IF;
  NEW.arguments := jsonb_build_object('tenant_id', NEW.tenant_id) || NEW.arguments;
  NEW.size := octet_length(NEW.arguments::text);
  IF NEW.size > {MAX_BYTES} THEN
    RAISE EXCEPTION 'queue_task: % has arguments of % bytes, and {MAX_BYTES} is the most', NEW.name, NEW.size
      USING ERRCODE = 'program_limit_exceeded', HINT = 'Store what is large as attachments, and name these.';
  END IF;
  SELECT key INTO parameter FROM jsonb_object_keys(NEW.arguments) AS key WHERE NOT parameters ? key LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION 'queue_task: % has no argument %', NEW.name, left(parameter, 100) {_REFUSE}, HINT = format(
      'Its arguments are %s.', (SELECT string_agg(key, ', ' ORDER BY key) FROM jsonb_object_keys(parameters) AS key)
    );
  END IF;
  FOR parameter, kind IN SELECT * FROM jsonb_each(parameters) LOOP
    value := NEW.arguments -> parameter;
    IF coalesce(value, 'null') = 'null' THEN
      IF kind ? 'required' THEN
        RAISE EXCEPTION 'queue_task: % needs a %', NEW.name, parameter {_REFUSE};
      END IF;
      CONTINUE;
    END IF;
    IF NOT (kind -> 'types') ? jsonb_typeof(value) THEN
      RAISE EXCEPTION 'queue_task: %: % must not be of this type (%)', NEW.name, parameter, jsonb_typeof(value)
        {_REFUSE};
    END IF;
    IF jsonb_typeof(value) = 'array' AND jsonb_array_length(value) > 100000 THEN
      RAISE EXCEPTION 'queue_task: %: % must not have more than 100,000 items', NEW.name, parameter {_REFUSE};
    END IF;
    IF jsonb_typeof(value) = 'array' AND jsonb_path_exists(value, '$[*] ? (@.type() != "string")', '{{}}', true) THEN
      RAISE EXCEPTION 'queue_task: %: % must have texts alone', NEW.name, parameter {_REFUSE};
    END IF;
    IF parameter ~ '_(id|ids|key)$' AND EXISTS (
      SELECT FROM jsonb_path_query(value, '$[*]') AS one
      WHERE length(one #>> '{{}}') > 251 OR one #>> '{{}}' ~ '{UNPRINTABLE}'
    ) THEN
      RAISE EXCEPTION 'queue_task: %: % must be a text of at most 251 printable characters', NEW.name, parameter
        {_REFUSE};
    END IF;
  END LOOP;
  IF NEW.arguments ->> 'user_id' = '' THEN
    RAISE EXCEPTION 'queue_task: % needs a user_id', NEW.name {_REFUSE};
  END IF;
  IF NEW.arguments ->> 'tenant_id' <> NEW.tenant_id THEN
    RAISE EXCEPTION 'queue_task: the tenant_id is not the tenant of this transaction' {_REFUSE},
      HINT = 'Leave tenant_id out, or set metabuilder.tenant_id to it.';
  END IF;
  IF NEW.arguments ? 'email_client_id' AND NOT EXISTS (
    SELECT FROM email_client AS account
    WHERE account.tenant_id = NEW.tenant_id AND account.id = NEW.arguments ->> 'email_client_id'
      AND account.user_id = NEW.arguments ->> 'user_id'
  ) THEN
    RAISE EXCEPTION 'queue_task: the user has no account with this email_client_id' {_REFUSE};
  END IF;
  -- The task may run as soon as this transaction is visible, so a crash must not take the transaction back then.
  IF current_setting('synchronous_commit') = 'off' THEN
    PERFORM set_config('synchronous_commit', 'on', true);
  END IF;
  PERFORM pg_notify('metabuilder_queued_task', '');
  RETURN NEW;
END
$$
"""
QUEUE_TASK = f"""
CREATE FUNCTION queue_task(name text, arguments jsonb) RETURNS uuid LANGUAGE plpgsql VOLATILE {SEARCH_PATH} AS $$
DECLARE
  tenant text := current_setting('metabuilder.tenant_id', true);
  queued text;
BEGIN
  IF coalesce(tenant, '') = '' THEN
    RAISE EXCEPTION 'queue_task: this transaction has no tenant' {_REFUSE},
      HINT = 'First SELECT set_config(''metabuilder.tenant_id'', ''your-tenant'', true).';
  END IF;
  INSERT INTO queued_task (tenant_id, name, arguments)
  VALUES (tenant, coalesce(queue_task.name, ''), coalesce(queue_task.arguments, 'null'))
  RETURNING id INTO queued;
  RETURN queued::uuid;
END
$$
"""

# Locks the rows until the transaction ends, so that no two beats publish one; the oldest come first, and as many as
# have these bytes together, but at least one.
CLAIM = f"""
RETURNS TABLE (tenant_id text, id text, name text, arguments text)
{_SQL}
AS $$
  SELECT public.refuse_unless(max_tasks BETWEEN 1 AND 10000, 'claim_queued_tasks: max_tasks is not from 1 to 10,000');
  SELECT public.refuse_unless(
    max_bytes BETWEEN 1 AND 1000000000, 'claim_queued_tasks: max_bytes is not from 1 to 1,000,000,000');
  WITH due AS MATERIALIZED (
    SELECT queued.tenant_id, queued.id, queued.name, queued.arguments, queued.size, queued.next_try_at
    FROM public.queued_task AS queued
    WHERE queued.next_try_at <= now()
    ORDER BY queued.next_try_at
    LIMIT max_tasks
    FOR UPDATE SKIP LOCKED
  ), measured AS (
    SELECT *, sum(size) OVER (ORDER BY next_try_at, id ROWS UNBOUNDED PRECEDING) - size AS bytes_before FROM due
  )
  SELECT tenant_id, id, name, arguments::text FROM measured
  WHERE bytes_before < max_bytes ORDER BY next_try_at, id
$$
"""
_PAIRS = """
  SELECT public.refuse_unless(
    cardinality(tenant_ids) <= 10000, '{0}: tenant_ids is not a list of at most 10,000');
  SELECT public.refuse_unless(
    cardinality(task_ids) = cardinality(tenant_ids), '{0}: task_ids is not a list as long as that of the tenants');
"""
DELETE = f"""
RETURNS bigint
{_SQL}
AS $$
  {_PAIRS.format("delete_queued_tasks")}
  WITH deleted AS (
    DELETE FROM public.queued_task AS queued USING unnest(tenant_ids, task_ids) AS given (tenant_id, id)
    WHERE queued.tenant_id = given.tenant_id AND queued.id = given.id
    RETURNING 1
  )
  SELECT count(*) FROM deleted
$$
"""
# A later release may know what this one does not, so the row is tried again.
SET_ASIDE = f"""
RETURNS void
{_SQL}
AS $$
  SELECT public.refuse_unless(length(of_tenant) > 0, 'set_aside_queued_task: of_tenant is not a tenant');
  SELECT public.refuse_unless(length(of_task) > 0, 'set_aside_queued_task: of_task is not an id');
  SELECT public.refuse_unless(length(words) <= 1000, 'set_aside_queued_task: words are not at most 1,000 characters');
  SELECT public.refuse_unless(
    retry_seconds BETWEEN 1 AND 86400, 'set_aside_queued_task: retry_seconds is not from 1 second to a day');
  UPDATE public.queued_task AS queued SET error = words, next_try_at = now() + make_interval(secs => retry_seconds)
  WHERE queued.tenant_id = of_tenant AND queued.id = of_task
$$
"""
RETRY = f"""
RETURNS bigint
{_SQL}
AS $$
  {_PAIRS.format("retry_queued_tasks")}
  WITH retried AS (
    UPDATE public.queued_task AS queued SET next_try_at = now()
    FROM unnest(tenant_ids, task_ids) AS given (tenant_id, id)
    WHERE queued.tenant_id = given.tenant_id AND queued.id = given.id AND queued.error IS NOT NULL
    RETURNING 1
  )
  SELECT count(*) FROM retried WHERE pg_notify('metabuilder_queued_task', '') IS NOT NULL
$$
"""
LIST = f"""
RETURNS TABLE (tenant_id text, id text, user_id text, name text, queued_at timestamptz, error text)
{_SQL}
AS $$
  SELECT public.refuse_unless(max_tasks BETWEEN 1 AND 10000, 'list_queued_tasks: max_tasks is not from 1 to 10,000');
  SELECT queued.tenant_id, queued.id, queued.arguments ->> 'user_id', queued.name, queued.queued_at, queued.error
  FROM public.queued_task AS queued
  ORDER BY queued.error IS NULL, queued.next_try_at LIMIT max_tasks
$$
"""
# Those that could not be published, and those that wait: how many, and for how long the oldest has been waiting.
COUNT = f"""
RETURNS TABLE (is_aside boolean, tasks bigint, oldest_seconds double precision)
{_SQL}
AS $$
  SELECT queued.error IS NOT NULL, count(*), extract(epoch FROM clock_timestamp() - min(queued.queued_at))::float8
  FROM public.queued_task AS queued GROUP BY 1
$$
"""
FUNCTIONS = {
    "claim_queued_tasks(max_tasks integer, max_bytes integer)": CLAIM,
    "delete_queued_tasks(tenant_ids text[], task_ids text[])": DELETE,
    "set_aside_queued_task(of_tenant text, of_task text, words text, retry_seconds integer)": SET_ASIDE,
    "retry_queued_tasks(tenant_ids text[], task_ids text[])": RETRY,
    "list_queued_tasks(max_tasks integer)": LIST,
    "count_queued_tasks()": COUNT,
}
FOR_THE_APPLICATION = ("queueable_tasks", "queue_task")


def upgrade() -> None:
    op.create_table(
        "queued_task",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), server_default=sa.text("(gen_random_uuid())::text"), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("arguments", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column(
            "queued_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column(
            "next_try_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("error", sa.Text(), nullable=True),
        sa.CheckConstraint("tenant_id <> ''", name=op.f("queued_task_tenant_id_check")),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("queued_task_pkey")),
    )
    op.create_index("queued_task_next_try_idx", "queued_task", ["next_try_at"])
    isolate_tenants("queued_task")
    op.execute("REVOKE INSERT, UPDATE, DELETE ON queued_task FROM metabuilder")
    op.execute("GRANT INSERT (tenant_id, name, arguments) ON queued_task TO metabuilder")
    # Rows come and go all the time, and few are there at once: what is dead is to be found again soon.
    op.execute("ALTER TABLE queued_task SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000)")
    for function in (QUEUEABLE_TASKS, QUEUED_TASK_CHECKED, QUEUE_TASK):
        op.execute(function)
    op.execute(
        "CREATE TRIGGER checked BEFORE INSERT ON queued_task FOR EACH ROW EXECUTE FUNCTION queued_task_checked()"
    )
    for name in (*FOR_THE_APPLICATION, "queued_task_checked"):
        op.execute(f"REVOKE ALL ON FUNCTION {name} FROM PUBLIC")
    for name in FOR_THE_APPLICATION:
        op.execute(f"GRANT EXECUTE ON FUNCTION {name} TO metabuilder")
    for signature, definition in FUNCTIONS.items():
        create_definer_function(signature, definition)


def downgrade() -> None:
    for signature in reversed(FUNCTIONS):
        op.execute(f"DROP FUNCTION {signature.partition('(')[0]}")
    op.execute("DROP FUNCTION queue_task")
    op.drop_table("queued_task")
    for name in ("queued_task_checked", "queueable_tasks"):
        op.execute(f"DROP FUNCTION {name}")
