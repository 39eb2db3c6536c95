"""OAuth2 grants, the key that each secret is encrypted with, and the function that finds what a rotation has left."""

import sqlalchemy as sa
from alembic import op

from tasks.storage.migrations.tenancy import create_definer_function, isolate_tenants

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# Returns only tenants, keys and counts: the secrets themselves are read and written tenant by tenant.
COUNT_CREDENTIALS = """
RETURNS TABLE (tenant_id text, key_id text, credentials bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
AS $$
  SELECT credential.tenant_id, credential.key_id, count(*)
  FROM public.credential
  GROUP BY credential.tenant_id, credential.key_id
$$
"""


def upgrade() -> None:
    op.add_column("credential", sa.Column("key_id", sa.Text(), server_default=sa.text("''"), nullable=False))
    op.create_table(
        "oauth2_grant",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("credential_id", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("token_endpoint", sa.Text(), nullable=False),
        sa.Column("client_id", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("refreshed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("retry_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("provider IN ('google', 'microsoft', 'other')", name=op.f("oauth2_grant_provider_check")),
        sa.CheckConstraint("token_endpoint LIKE 'https://%'", name=op.f("oauth2_grant_token_endpoint_check")),
        sa.ForeignKeyConstraint(
            ["tenant_id", "credential_id"],
            ["credential.tenant_id", "credential.id"],
            name=op.f("oauth2_grant_credential_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "credential_id", name=op.f("oauth2_grant_pkey")),
    )
    isolate_tenants("oauth2_grant")
    create_definer_function("count_credentials()", COUNT_CREDENTIALS)


def downgrade() -> None:
    op.execute("DROP FUNCTION count_credentials")
    op.drop_table("oauth2_grant")
    op.drop_column("credential", "key_id")
