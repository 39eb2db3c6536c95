"""How many messages the server says a folder has, how many are missing here, and why."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_REASONS = "missing_reason IN ('search', 'withheld', 'window', 'listing', 'refused')"


def upgrade() -> None:
    for name in ("server_count", "window_size"):
        op.add_column("email_folder", sa.Column(name, sa.Integer(), nullable=True))
    for name in ("hidden_count", "missing_count"):
        op.add_column("email_folder", sa.Column(name, sa.Integer(), nullable=False, server_default=sa.text("0")))
    op.add_column("email_folder", sa.Column("missing_reason", sa.Text(), nullable=True))
    op.add_column("email_folder", sa.Column("missing_again_at", sa.DateTime(timezone=True), nullable=True))
    op.create_check_constraint(op.f("email_folder_missing_reason_check"), "email_folder", _REASONS)


def downgrade() -> None:
    op.drop_constraint("email_folder_missing_reason_check", "email_folder")
    missing = ("missing_again_at", "missing_reason", "missing_count")
    for name in (*missing, "hidden_count", "window_size", "server_count"):
        op.drop_column("email_folder", name)
