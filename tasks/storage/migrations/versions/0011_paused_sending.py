"""Since when and why sending from an account is paused, while its mailbox is still synced."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("email_client", sa.Column("smtp_paused_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("email_client", sa.Column("smtp_last_error", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("email_client", "smtp_last_error")
    op.drop_column("email_client", "smtp_paused_at")
