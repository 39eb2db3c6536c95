"""Only the workers' role may call the functions that look across tenants, and arguments out of bounds are refused."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

# Raises SQLSTATE 22023, invalid_parameter_value, unless the condition is true, so NULL is refused too.
REFUSE_UNLESS = """
CREATE FUNCTION refuse_unless(is_fine boolean, message text) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, public, pg_temp
AS $$
BEGIN
  IF is_fine IS NOT TRUE THEN
    RAISE invalid_parameter_value USING MESSAGE = message;
  END IF;
END
$$
"""

# More than the workers ask for, and too little to do harm with one call. The settings behind these numbers have the
# same limits (tasks/settings.py).
ROWS = "from 1 to 10,000 rows", "{} BETWEEN 1 AND 10000"
WAIT = "from 0 seconds to 30 days", "{} BETWEEN 0 AND 2592000"
PLACE = "a text, empty for the first", "{} IS NOT NULL"
BOUNDS = {
    "claim_due_accounts": {
        "after_tenant": PLACE,
        "is_inclusive": ("true or false", "{} IS NOT NULL"),
        "max_accounts": ROWS,
        "max_per_tenant": ROWS,
        "queue_seconds": WAIT,
    },
    "unclaim_accounts": {
        "tenant_ids": ("a list of at most 10,000", "cardinality({}) <= 10000"),
        "account_ids": ("a list as long as that of the tenants", "cardinality({}) = cardinality(tenant_ids)"),
        "wait_seconds": WAIT,
    },
    "host_has_room": {
        "host": ("a host name", "length({}) <= 1000"),
        "max_connections": ("a number above 0", "{} > 0"),
    },
    # A younger blob may belong to a message that is being stored.
    "delete_unreferenced_blobs": {
        "after_tenant_id": PLACE,
        "after_sha256": PLACE,
        "max_blobs": ROWS,
        "age_seconds": ("from 1 hour to 10 years", "{} BETWEEN 3600 AND 315360000"),
    },
    "delete_old_dead_letters": {
        "max_letters": ROWS,
        "age_seconds": ("from 1 day to 10 years", "{} BETWEEN 86400 AND 315360000"),
    },
    "accounts_with_expired_trash": {
        "retention_days": ("from 1 day to 100 years", "{} BETWEEN 1 AND 36500"),
        "after_tenant": PLACE,
        "after_account": PLACE,
        "max_accounts": ROWS,
    },
    "accounts_with_rereading": {
        "known_version": ("from 1 to 32,767", "{} BETWEEN 1 AND 32767"),
        "after_tenant": PLACE,
        "after_account": PLACE,
        "max_accounts": ROWS,
        "automatically": ("true or false", "{} IS NOT NULL"),
    },
}
WITHOUT_ARGUMENTS = ("list_dead_letters", "count_credentials", "release_expired_leases", "tenants_with_accounts")
INTAKES = ("blob", "email_message", "email_attachment", "raw_quarantine")
_BODY = "AS $function$\n"


def checks(function: str) -> str:
    """The checks that stand before the body of the function."""
    return "".join(
        f"  SELECT public.refuse_unless({fine.format(argument)}, '{function}: {argument} is not {words}');\n"
        for argument, (words, fine) in BOUNDS[function].items()
    )


def upgrade() -> None:
    op.execute(REFUSE_UNLESS)
    op.execute("REVOKE ALL ON FUNCTION refuse_unless FROM PUBLIC")
    for function in BOUNDS:
        head, body = _definition(function)
        _define(f"{head}{_BODY}{checks(function)}{body}")
    # Workers of the release before still log in as the application's role. Once none are left, `finish` in
    # tasks/storage/migrate.py revokes these functions from that role.
    for function in (*BOUNDS, *WITHOUT_ARGUMENTS):
        op.execute(f"GRANT EXECUTE ON FUNCTION {function} TO metabuilder_worker")
    for table in INTAKES:
        op.execute(f"REVOKE ALL ON FUNCTION intake_{table} FROM PUBLIC")


def downgrade() -> None:
    for function in (*BOUNDS, *WITHOUT_ARGUMENTS):
        op.execute(f"GRANT EXECUTE ON FUNCTION {function} TO metabuilder")
    for function in BOUNDS:
        head, body = _definition(function)
        _define(f"{head}{_BODY}{body.removeprefix(checks(function))}")
    op.execute("DROP FUNCTION refuse_unless")


def _definition(function: str) -> tuple[str, str]:
    """The statement that makes the function, split where its body begins."""
    statement = sa.text("SELECT pg_get_functiondef(CAST(:name AS regproc))")
    found = str(op.get_bind().scalar(statement, {"name": f"public.{function}"}))
    head, _, body = found.partition(_BODY)
    return head, body


def _define(statement: str) -> None:
    # Executed without parameters, because a colon in the statement is no parameter.
    op.get_bind().exec_driver_sql(statement)
