"""The identifier of a folder on its server, which stays when the name changes (MAILBOXID, RFC 8474)."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("email_folder", sa.Column("mailbox_id", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("email_folder", "mailbox_id")
