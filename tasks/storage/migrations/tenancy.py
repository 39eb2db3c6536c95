"""What every migration that makes a table has to do to keep tenants apart."""

from alembic import op

# As a scalar sub-select, the setting is read once per statement and not once per row. A transaction that sets no
# tenant gets NULL or an empty string, and neither equals any tenant.
OF_THIS_TENANT = "tenant_id = (SELECT current_setting('metabuilder.tenant_id', true))"


def isolate_tenants(table: str) -> None:
    """Let the application's role see and write only the rows of its transaction's tenant."""
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    op.execute(
        f"CREATE POLICY tenant ON {table} TO metabuilder USING ({OF_THIS_TENANT}) WITH CHECK ({OF_THIS_TENANT})"
    )
    # The owner migrates data and runs the functions that look across tenants.
    op.execute(f"CREATE POLICY owner ON {table} TO CURRENT_USER USING (true) WITH CHECK (true)")
    op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO metabuilder")


def create_definer_function(signature: str, definition: str) -> None:
    """Create a function that looks across tenants: it runs as the owner, and only the workers' role may call it."""
    op.execute(f"CREATE FUNCTION {signature} {definition}")
    name = signature.partition("(")[0]
    op.execute(f"REVOKE ALL ON FUNCTION {name} FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION {name} TO metabuilder_worker")
