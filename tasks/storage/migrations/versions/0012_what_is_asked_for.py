"""A digest of an outgoing message's content that does not
depend on its writing, and an index for notes of deletions."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("outbox_message", sa.Column("content_digest", sa.Text(), nullable=True))
    op.drop_index("deletion_created_idx", "deletion")
    op.create_index("deletion_created_idx", "deletion", ["tenant_id", "created_at"])


def downgrade() -> None:
    op.drop_index("deletion_created_idx", "deletion")
    op.create_index("deletion_created_idx", "deletion", ["created_at"])
    op.drop_column("outbox_message", "content_digest")
