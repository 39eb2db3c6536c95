"""The result of the spam check, and the user's word that a message is no spam."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from tasks.storage.migrations.intake import create_intake, drop_intake

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

INTAKE_BEFORE = {"filed_at": "now()"}
# Defaults, so that a worker of the release before can go on storing mail.
INTAKE_AFTER = {**INTAKE_BEFORE, "is_not_spam": "false", "spam_indicators": "'[]'::jsonb"}


def upgrade() -> None:
    drop_intake("email_message")
    op.add_column(
        "email_message", sa.Column("is_not_spam", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    op.add_column("email_message", sa.Column("spam_score", sa.REAL(), nullable=True))
    op.add_column(
        "email_message",
        sa.Column(
            "spam_indicators",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'[]'::jsonb"),
            nullable=False,
        ),
    )
    op.create_check_constraint(op.f("email_message_spam_score_check"), "email_message", "spam_score BETWEEN 0 AND 1")
    create_intake("email_message", **INTAKE_AFTER)


def downgrade() -> None:
    drop_intake("email_message")
    for column in ("spam_indicators", "spam_score", "is_not_spam"):
        op.drop_column("email_message", column)
    create_intake("email_message", **INTAKE_BEFORE)
