-- The newest moment that a restored database knows of, and what was there then: roles/backup/files/backup_watch.py compares.
-- On a standby there is nothing to write.
SET client_min_messages = warning;
DO $$
DECLARE
  accounts bigint := 0;
  messages bigint := 0;
BEGIN
  IF pg_is_in_recovery() THEN
    RETURN;
  END IF;
  IF to_regclass('public.email_message') IS NOT NULL THEN
    EXECUTE 'SELECT count(*) FROM public.email_client' INTO accounts;
    SELECT greatest(reltuples, 0) INTO messages FROM pg_class WHERE oid = to_regclass('public.email_message');
  END IF;
  CREATE SCHEMA IF NOT EXISTS metabuilder_backup;
  CREATE TABLE IF NOT EXISTS metabuilder_backup.ledger (
    is_the_row boolean PRIMARY KEY DEFAULT true CHECK (is_the_row),
    written timestamptz NOT NULL,
    accounts bigint NOT NULL,
    messages bigint NOT NULL
  );
  INSERT INTO metabuilder_backup.ledger AS ledger (written, accounts, messages)
  VALUES (clock_timestamp(), accounts, messages)
  ON CONFLICT (is_the_row) DO UPDATE
  SET written = excluded.written, accounts = excluded.accounts, messages = excluded.messages;
END
$$ \watch 15
