"""What an account's server offers and refuses, and what to do about folders that show all messages a second time."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("email_client", sa.Column("all_mail", sa.Text(), server_default=sa.text("'skip'"), nullable=False))
    op.create_check_constraint(op.f("email_client_all_mail_check"), "email_client", "all_mail IN ('skip', 'sync')")
    op.add_column(
        "email_client",
        sa.Column(
            "refused_extensions",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
    )


def downgrade() -> None:
    op.drop_column("email_client", "refused_extensions")
    op.drop_constraint("email_client_all_mail_check", "email_client")
    op.drop_column("email_client", "all_mail")
