"""The key of a deletion in a column of its own name. The column of the release before is kept in step for a while."""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

# The release before writes and reads `task_id`, this release `task_key`; both hold the same key. A later migration
# moves the primary key to `task_key`, and drops `task_id`, this trigger and the second index.
KEEP_IN_STEP = """
CREATE FUNCTION deletion_key() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  NEW.task_key := coalesce(NEW.task_key, NEW.task_id);
  NEW.task_id := NEW.task_key;
  RETURN NEW;
END
$$;
REVOKE ALL ON FUNCTION deletion_key FROM PUBLIC;
CREATE TRIGGER key BEFORE INSERT ON deletion FOR EACH ROW EXECUTE FUNCTION deletion_key();
"""


def upgrade() -> None:
    op.add_column("deletion", sa.Column("task_key", sa.Text(), nullable=True))
    op.execute("UPDATE deletion SET task_key = task_id")
    op.alter_column("deletion", "task_key", nullable=False)
    op.create_index("deletion_task_key_idx", "deletion", ["tenant_id", "task_key"])
    op.execute(KEEP_IN_STEP)


def downgrade() -> None:
    op.execute("DROP TRIGGER key ON deletion")
    op.execute("DROP FUNCTION deletion_key")
    op.drop_index("deletion_task_key_idx", "deletion")
    op.drop_column("deletion", "task_key")
