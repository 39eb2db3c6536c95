"""Unique-ids of POP3 messages, how long messages stay on the server, and when a message came into its folder."""

import sqlalchemy as sa
from alembic import op

from tasks.storage.migrations.intake import create_intake, drop_intake

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


def upgrade() -> None:
    op.add_column("email_client", sa.Column("pop3_keep_days", sa.Integer(), nullable=True))
    op.create_check_constraint(op.f("email_client_pop3_keep_days_check"), "email_client", "pop3_keep_days >= 0")
    op.add_column("email_folder", sa.Column("suspect_uidl", sa.Text(), nullable=True))
    for table, options in INTAKES_AFTER.items():
        drop_intake(table)
        _add_uidl(table)
        create_intake(table, **options)


def downgrade() -> None:
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
