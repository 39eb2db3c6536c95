"""Until when the lease on an account is kept for an urgent run that waits."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("email_client", sa.Column("lease_wanted_until", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    op.drop_column("email_client", "lease_wanted_until")
