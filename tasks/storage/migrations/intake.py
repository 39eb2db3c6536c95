"""Intake views, through which rows are bulk-inserted into tables with row-level security (docs/decisions/0004).

PostgreSQL refuses COPY into such a table. But it takes COPY into a view whose trigger
inserts each row, and the policy of the table then applies to the role that copies. The view
shows no rows and may only be inserted into. It has the columns that its table had when the
view was made, so a migration that adds a column drops the view before and creates it after.
"""

from alembic import op

_CREATE = """
CREATE VIEW intake_{table} AS SELECT * FROM {table} WHERE false;
CREATE FUNCTION intake_{table}() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  INSERT INTO public.{table} VALUES (NEW.*) {on_conflict};
  RETURN NEW;
END
$$;
REVOKE ALL ON FUNCTION intake_{table} FROM PUBLIC;
CREATE TRIGGER intake INSTEAD OF INSERT ON intake_{table} FOR EACH ROW EXECUTE FUNCTION intake_{table}();
GRANT INSERT ON intake_{table} TO metabuilder;
"""


def create_intake(table: str, on_conflict: str = "", **defaults: str) -> None:
    """The intake view of a table; `defaults` are SQL by column, for columns that may be left out."""
    op.execute(_CREATE.format(table=table, on_conflict=on_conflict))
    for column, default in defaults.items():
        op.execute(f"ALTER VIEW intake_{table} ALTER COLUMN {column} SET DEFAULT {default}")


def drop_intake(table: str) -> None:
    """Drop the intake view of a table, with its function."""
    op.execute(f"DROP VIEW intake_{table}")
    op.execute(f"DROP FUNCTION intake_{table}")
