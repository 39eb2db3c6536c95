"""What messages of POP3 accounts are known by, when a message came into its folder, and what delete tasks removed."""

import sqlalchemy as sa
from alembic import op

from tasks.storage.migrations.intake import create_intake, drop_intake
from tasks.storage.migrations.tenancy import create_definer_function, isolate_tenants

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

INTAKES_BEFORE = {
    "email_message": {},
    "raw_quarantine": {"on_conflict": "ON CONFLICT DO NOTHING", "created_at": "now()"},
}
INTAKES_AFTER = {**INTAKES_BEFORE, "email_message": {"filed_at": "now()"}}
NUMBERED = (
    "CASE WHEN uidl IS NULL THEN uidvalidity IS NOT NULL AND imap_uid IS NOT NULL "
    "ELSE uidvalidity IS NULL AND imap_uid IS NULL END"
)

# No more than is needed to queue a task for each account; which messages it is, the task finds out for itself.
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
    op.add_column("email_client", sa.Column("pop3_keep_days", sa.Integer(), nullable=True))
    op.create_check_constraint(op.f("email_client_pop3_keep_days_check"), "email_client", "pop3_keep_days >= 0")
    op.add_column("email_folder", sa.Column("suspect_uidl", sa.Text(), nullable=True))
    for table, options in INTAKES_AFTER.items():
        drop_intake(table)
        _add_uidl(table)
        create_intake(table, **options)
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
    for table, options in INTAKES_BEFORE.items():
        drop_intake(table)
        _remove_uidl(table)
        create_intake(table, **options)
    op.drop_column("email_folder", "suspect_uidl")
    op.drop_column("email_client", "pop3_keep_days")


def _add_uidl(table: str) -> None:
    op.add_column(table, sa.Column("uidl", sa.Text(), nullable=True))
    for column in ("uidvalidity", "imap_uid"):
        op.alter_column(table, column, nullable=True)
    if table == "email_message":
        op.add_column(
            table, sa.Column("filed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False)
        )
    op.create_check_constraint(op.f(f"{table}_numbered_check"), table, NUMBERED)
    op.create_index(
        f"{table}_uidl_key",
        table,
        ["tenant_id", "email_client_id", "uidl"],
        unique=True,
        postgresql_where=sa.text("uidl IS NOT NULL"),
    )


def _remove_uidl(table: str) -> None:
    # Before this migration nothing could be stored without a UID.
    op.execute(f"DELETE FROM {table} WHERE uidl IS NOT NULL")
    for column in ("uidvalidity", "imap_uid"):
        op.alter_column(table, column, nullable=False)
    op.drop_column(table, "uidl")
    if table == "email_message":
        op.drop_column(table, "filed_at")
