"""The outbox: messages on their way out; and what an account does about copies of what it sent."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from tasks.storage.migrations.tenancy import isolate_tenants

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "email_client", sa.Column("sent_copies", sa.Text(), server_default=sa.text("'auto'"), nullable=False)
    )
    op.create_check_constraint(
        op.f("email_client_sent_copies_check"), "email_client", "sent_copies IN ('auto', 'append', 'none')"
    )
    op.create_table(
        "outbox_message",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("email_client_id", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("sender", sa.Text(), nullable=False),
        sa.Column("recipients", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("raw", sa.LargeBinary(), nullable=True),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column("claimed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("data_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("accepted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_error_code", sa.Text(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "state IN ('queued', 'sending', 'accepted', 'sent', 'failed', 'unknown')",
            name=op.f("outbox_message_state_check"),
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "email_client_id"],
            ["email_client.tenant_id", "email_client.id"],
            name=op.f("outbox_message_email_client_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("outbox_message_pkey")),
        sa.UniqueConstraint(
            "tenant_id", "email_client_id", "key", name=op.f("outbox_message_tenant_id_email_client_id_key_key")
        ),
    )
    op.create_index(
        "outbox_message_open_idx",
        "outbox_message",
        ["tenant_id", "created_at"],
        unique=False,
        postgresql_where=sa.text("state <> 'sent'"),
    )
    isolate_tenants("outbox_message")
    # Base64 and images gain little from compression, and each message is read once.
    op.execute("ALTER TABLE outbox_message ALTER COLUMN raw SET STORAGE EXTERNAL")


def downgrade() -> None:
    op.drop_table("outbox_message")
    op.drop_constraint("email_client_sent_copies_check", "email_client")
    op.drop_column("email_client", "sent_copies")
