"""Tasks that failed for good."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from tasks.storage.migrations.tenancy import create_definer_function, isolate_tenants

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# For the operator's list of dead letters: only what the list shows, without the arguments.
LIST = """
RETURNS TABLE (tenant_id text, id text, task_name text, error_code text, error text, attempts integer,
               first_failed_at timestamptz, last_failed_at timestamptz, retried_at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
AS $$
  SELECT tenant_id, id, task_name, error_code, error, attempts, first_failed_at, last_failed_at, retried_at
  FROM public.dead_letter
$$
"""


def upgrade() -> None:
    op.drop_constraint("credential_kind_check", "credential")
    op.create_check_constraint(
        op.f("credential_kind_check"), "credential", "kind IN ('password', 'oauth2_refresh_token', 'task_arguments')"
    )
    op.create_table(
        "dead_letter",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("task_key", sa.Text(), nullable=False),
        sa.Column("task_name", sa.Text(), nullable=False),
        sa.Column("task_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=True),
        sa.Column("shown_arguments", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("credential_id", sa.Text(), nullable=False),
        sa.Column("error_code", sa.Text(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("traceback", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("first_failed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("last_failed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("retried_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("tenant_id <> ''", name=op.f("dead_letter_tenant_id_check")),
        sa.ForeignKeyConstraint(
            ["tenant_id", "credential_id"],
            ["credential.tenant_id", "credential.id"],
            name=op.f("dead_letter_credential_fkey"),
        ),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("dead_letter_pkey")),
        sa.UniqueConstraint("tenant_id", "task_key", name=op.f("dead_letter_tenant_id_task_key_key")),
    )
    op.create_index("dead_letter_last_failed_idx", "dead_letter", ["last_failed_at"])
    isolate_tenants("dead_letter")
    create_definer_function("list_dead_letters()", LIST)


def downgrade() -> None:
    op.execute("DROP FUNCTION list_dead_letters")
    op.drop_table("dead_letter")
    op.execute("DELETE FROM credential WHERE kind = 'task_arguments'")
    op.drop_constraint("credential_kind_check", "credential")
    op.create_check_constraint(
        op.f("credential_kind_check"), "credential", "kind IN ('password', 'oauth2_refresh_token')"
    )
