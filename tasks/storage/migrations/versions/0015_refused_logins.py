"""Since when logins are refused, when the next one is due, and by which mechanism the last one worked."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

SIDES = ("", "smtp_")


def upgrade() -> None:
    for side in SIDES:
        op.add_column("email_client", sa.Column(f"{side}login_mechanism", sa.Text(), nullable=True))
        for moment in ("login_refused_since", "login_retry_at"):
            op.add_column("email_client", sa.Column(f"{side}{moment}", sa.DateTime(timezone=True), nullable=True))
        failures = sa.Column(f"{side}login_failures", sa.Integer(), server_default=sa.text("0"), nullable=False)
        op.add_column("email_client", failures)
    # A side that has worked counts as logged in before; the next login stores the real name of the mechanism.
    op.execute(
        "UPDATE email_client SET login_mechanism = 'unknown' WHERE last_sync_at IS NOT NULL AND paused_at IS NULL"
    )
    op.execute(
        """
        UPDATE email_client AS account SET smtp_login_mechanism = 'unknown'
        WHERE smtp_paused_at IS NULL AND EXISTS (
          SELECT FROM outbox_message AS sent
          WHERE sent.tenant_id = account.tenant_id AND sent.email_client_id = account.id
            AND sent.accepted_at IS NOT NULL
        )
        """
    )


def downgrade() -> None:
    for side in reversed(SIDES):
        for column in ("login_retry_at", "login_failures", "login_refused_since", "login_mechanism"):
            op.drop_column("email_client", f"{side}{column}")
