"""What delete tasks have removed, and the function that finds accounts with expired mail in Trash."""

import sqlalchemy as sa
from alembic import op

from tasks.storage.migrations.tenancy import create_definer_function, isolate_tenants

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

# Returns no more than is needed to queue a task for each account; the task finds the messages itself.
WITH_EXPIRED_TRASH = """
RETURNS TABLE (tenant_id text, email_client_id text, user_id text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
AS $$
  SELECT account.tenant_id, account.id, account.user_id
  FROM public.email_client AS account
  WHERE account.is_enabled AND account.paused_at IS NULL
    AND (account.tenant_id, account.id) > (after_tenant, after_account)
    AND EXISTS (
      SELECT FROM public.email_folder AS folder
      JOIN public.email_message AS message
        ON message.tenant_id = folder.tenant_id AND message.folder_id = folder.id
      WHERE folder.tenant_id = account.tenant_id AND folder.email_client_id = account.id AND folder.type = 'trash'
        AND message.filed_at < now() - make_interval(days => retention_days)
    )
  ORDER BY account.tenant_id, account.id
  LIMIT max_accounts
$$
"""


def upgrade() -> None:
    op.create_table(
        "deletion",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("task_id", sa.Text(), nullable=False),
        sa.Column("email_message_id", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("tenant_id <> ''", name=op.f("deletion_tenant_id_check")),
        sa.PrimaryKeyConstraint("tenant_id", "task_id", "email_message_id", name=op.f("deletion_pkey")),
    )
    op.create_index("deletion_created_idx", "deletion", ["created_at"])
    isolate_tenants("deletion")
    create_definer_function(
        "accounts_with_expired_trash("
        "retention_days integer, after_tenant text, after_account text, max_accounts integer)",
        WITH_EXPIRED_TRASH,
    )


def downgrade() -> None:
    op.execute("DROP FUNCTION accounts_with_expired_trash")
    op.drop_table("deletion")
