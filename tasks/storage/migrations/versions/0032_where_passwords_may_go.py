"""The application's role reads no stored secret, and has none sent to a server that was not named with it.

That role adds accounts and changes passwords. Whoever took it over could let another account name a mail server or a
token endpoint of theirs, to which workers would send the stored password. So the role names servers only in the
transaction that stores the secret which goes there. Workers, and operators on workers' hosts, may do as before.
"""

import sqlalchemy as sa
from alembic import op

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None

# What the application's role may do with stored secrets: all but reading them, and saying when they were stored.
READ = "tenant_id, id, kind, key_id, created_at, updated_at, stored_in"
ADDED = "tenant_id, id, kind, ciphertext, key_id"
WRITTEN = "ciphertext, key_id, updated_at"

# The columns that say where a secret goes: of a table, for one side of an account.
PLACES = (
    ("email_client", "mailbox", ("hostname", "port", "encryption", "credential_id")),
    ("email_client", "smtp", ("smtp_hostname", "smtp_port", "smtp_encryption", "smtp_credential_id")),
    ("oauth2_grant", "mailbox", ("token_endpoint", "credential_id")),
)
# `stored_in` is the transaction that stored a secret. Its time is compared too, as a cluster that was filled from a
# dump counts transactions anew. An SMTP server without a secret of its own gets that of the mailbox.
THIS_TRANSACTION = "((pg_current_xact_id())::text)::bigint"
CHECK = f"""
CREATE FUNCTION secret_goes_where_it_was_meant_to() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp
AS $$
DECLARE
  secret text;
BEGIN
  IF pg_has_role(current_user, 'metabuilder_worker', 'USAGE')
    OR NOT pg_has_role(current_user, 'metabuilder', 'USAGE') THEN
    RETURN NEW;
  END IF;
  IF TG_ARGV[0] = 'smtp' THEN
    IF NEW.smtp_hostname IS NULL THEN
      RETURN NEW;
    END IF;
    secret := coalesce(NEW.smtp_credential_id, NEW.credential_id);
  ELSE
    secret := NEW.credential_id;
  END IF;
  IF NOT EXISTS (
    SELECT FROM public.credential
    WHERE tenant_id = NEW.tenant_id AND id = secret
      AND stored_in = {THIS_TRANSACTION} AND created_at = transaction_timestamp()
  ) THEN
    RAISE EXCEPTION 'a stored password or token goes only to the server that was named with it'
      USING ERRCODE = 'insufficient_privilege',
            HINT = 'Store it anew in the transaction that names another server.';
  END IF;
  RETURN NEW;
END
$$
"""


def upgrade() -> None:
    # NULL for the secrets that there are: no transaction stores them any more.
    op.add_column("credential", sa.Column("stored_in", sa.BigInteger()))
    op.alter_column("credential", "stored_in", server_default=sa.text(THIS_TRANSACTION))
    op.execute("GRANT SELECT, INSERT, UPDATE ON credential TO metabuilder_worker")
    op.execute("REVOKE SELECT, INSERT, UPDATE ON credential FROM metabuilder")
    op.execute(f"GRANT SELECT ({READ}), INSERT ({ADDED}), UPDATE ({WRITTEN}) ON credential TO metabuilder")
    op.execute(CHECK)
    op.execute("REVOKE ALL ON FUNCTION secret_goes_where_it_was_meant_to FROM PUBLIC")
    for table, side, columns in PLACES:
        changed = " OR ".join(f"OLD.{column} IS DISTINCT FROM NEW.{column}" for column in columns)
        for name, event, when in (
            (f"{side}_secret_is_new", "INSERT", ""),
            (f"{side}_secret_stays", f"UPDATE OF {', '.join(columns)}", f"WHEN ({changed})"),
        ):
            op.execute(
                f"CREATE TRIGGER {name} BEFORE {event} ON {table} FOR EACH ROW {when} "
                f"EXECUTE FUNCTION secret_goes_where_it_was_meant_to('{side}')"
            )


def downgrade() -> None:
    op.execute("DROP FUNCTION secret_goes_where_it_was_meant_to CASCADE")  # with the triggers
    op.execute(f"REVOKE SELECT ({READ}), INSERT ({ADDED}), UPDATE ({WRITTEN}) ON credential FROM metabuilder")
    op.execute("GRANT SELECT, INSERT, UPDATE ON credential TO metabuilder")
    op.execute("REVOKE SELECT, INSERT, UPDATE ON credential FROM metabuilder_worker")
    op.drop_column("credential", "stored_in")
