"""The functions that remove what nobody needs any more, of all tenants."""

from alembic import op

from tasks.storage.migrations.tenancy import create_definer_function

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

LEASES = """
RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
AS $$
  WITH released AS (
    UPDATE public.email_client SET lease_owner = NULL, lease_until = NULL
    WHERE lease_owner IS NOT NULL AND lease_until < clock_timestamp()
    RETURNING 1
  )
  SELECT count(*) FROM released
$$
"""

# Walks the primary key. A blob that gets a reference at this moment is not deleted: the foreign key makes the whole
# step fail, and it is rolled back.
BLOBS = """
RETURNS TABLE (next_tenant_id text, next_sha256 text, deleted bigint)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
AS $$
  WITH step AS (
    SELECT blob.tenant_id, blob.sha256, blob.created_at FROM public.blob
    WHERE (blob.tenant_id, blob.sha256) > (after_tenant_id, after_sha256)
    ORDER BY blob.tenant_id, blob.sha256
    LIMIT max_blobs
  ), gone AS (
    DELETE FROM public.blob USING step
    WHERE blob.tenant_id = step.tenant_id AND blob.sha256 = step.sha256
      AND step.created_at < now() - make_interval(secs => age_seconds)
      AND NOT EXISTS (
        SELECT FROM public.email_attachment AS attachment
        WHERE attachment.tenant_id = step.tenant_id AND attachment.storage_key = step.sha256
      )
    RETURNING 1
  ), last AS (
    SELECT tenant_id, sha256 FROM step
    WHERE (SELECT count(*) FROM step) = max_blobs
    ORDER BY tenant_id DESC, sha256 DESC LIMIT 1
  )
  SELECT (SELECT tenant_id FROM last), (SELECT sha256 FROM last), (SELECT count(*) FROM gone)
$$
"""

LETTERS = """
RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
AS $$
  WITH old AS (
    SELECT letter.tenant_id, letter.id FROM public.dead_letter AS letter
    WHERE letter.last_failed_at < now() - make_interval(secs => age_seconds)
    ORDER BY letter.last_failed_at
    LIMIT max_letters
    FOR UPDATE SKIP LOCKED
  ), letters AS (
    DELETE FROM public.dead_letter AS letter USING old
    WHERE letter.tenant_id = old.tenant_id AND letter.id = old.id
    RETURNING letter.tenant_id, letter.credential_id
  ), arguments AS (
    DELETE FROM public.credential USING letters
    WHERE credential.tenant_id = letters.tenant_id AND credential.id = letters.credential_id
    RETURNING 1
  )
  SELECT count(*) FROM letters
$$
"""

FUNCTIONS = {
    "release_expired_leases()": LEASES,
    "delete_unreferenced_blobs(after_tenant_id text, after_sha256 text, max_blobs int, age_seconds int)": BLOBS,
    "delete_old_dead_letters(max_letters integer, age_seconds integer)": LETTERS,
}


def upgrade() -> None:
    for signature, definition in FUNCTIONS.items():
        create_definer_function(signature, definition)


def downgrade() -> None:
    for signature in FUNCTIONS:
        op.execute(f"DROP FUNCTION {signature.partition('(')[0]}")
