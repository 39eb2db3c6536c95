"""Two tenants in one database: nothing written in SQL by the application's role crosses over."""

import re

import psycopg2
import psycopg2.errors
import pytest

from native.postgres import libpq
from tasks.errors import NotFoundError
from tasks.storage import copy, wire
from tasks.storage.accounts.leases import take_lease
from tasks.storage.accounts.rows import NewAccount, add_account, find_account, get_account
from tasks.storage.models import Base
from tasks.storage.session import tenant_transaction, unbound_transaction
from tests.conftest import TENANT, USER, Database, as_superuser, sync
from tests.support.mailbox import Mailbox, message

# The others belong to no tenant (tests/migrations/test_migrations.py).
TABLES = sorted(name for name, table in Base.metadata.tables.items() if "tenant_id" in table.columns)
VIEWS = ["attachment_view", "folder_view", "message_view"]
OTHER = "tenant-2"


@pytest.fixture
def filled(account, mailbox: Mailbox, database: Database):
    """An account of TENANT with a row in every table."""
    attachment = message(1).replace(b'text/plain; charset="utf-8"', b"application/pdf")
    mailbox.append([message(0), attachment])
    sync(account)
    with tenant_transaction(TENANT) as connection:
        folder = connection.exec_driver_sql("SELECT id FROM email_folder WHERE type = 'inbox'").scalar_one()
        connection.exec_driver_sql(
            "INSERT INTO raw_quarantine (tenant_id, id, email_client_id, folder_id, uidvalidity, imap_uid, reason, "
            "detail, size) VALUES (%s, 'q', %s, %s, 1, 999, 'too_large', '', 0)",
            (TENANT, account.id, folder),
        )
        connection.exec_driver_sql(
            "INSERT INTO outbox_message (tenant_id, id, email_client_id, key, digest, state, message_id, sender, "
            "recipients, size) VALUES (%s, 'o', %s, 'key:1', '', 'sent', '', '', '[]', 0)",
            (TENANT, account.id),
        )
        connection.exec_driver_sql(
            "INSERT INTO dead_letter (tenant_id, id, task_key, task_name, task_id, shown_arguments, credential_id, "
            "error_code, error, traceback, attempts) VALUES (%s, 'd', '', '', '', '{}', %s, '', '', '', 1)",
            (TENANT, account.credential_id),
        )
        connection.exec_driver_sql(
            "INSERT INTO deletion (tenant_id, task_key, email_message_id) VALUES (%s, 't', 'm')", (TENANT,)
        )
        connection.exec_driver_sql(
            "INSERT INTO rereading (tenant_id, email_message_id, email_client_id, parser_version) "
            "SELECT tenant_id, id, email_client_id, 1 FROM email_message LIMIT 1"
        )
        connection.exec_driver_sql(
            "INSERT INTO oauth2_grant (tenant_id, credential_id, provider, token_endpoint, client_id, scope) "
            "VALUES (%s, %s, 'other', 'https://tokens.example.org', '', '')",
            (TENANT, account.credential_id),
        )
        connection.exec_driver_sql(
            "INSERT INTO webhook (tenant_id, id, url, credential_id, transaction_id, number) "
            "VALUES (%s, 'w', 'https://app.example.org', %s, 1, 1)",
            (TENANT, account.credential_id),
        )
        connection.exec_driver_sql(
            "INSERT INTO webhook_backlog (tenant_id, webhook_id, email_client_id, transaction_id, number) "
            "VALUES (%s, 'w', %s, 1, 1)",
            (TENANT, account.id),
        )
        connection.exec_driver_sql(
            "SELECT queue_task('sync_emails', jsonb_build_object('email_client_id', %s::text, 'user_id', %s::text))",
            (account.id, account.user_id),
        )
    with psycopg2.connect(libpq(database.owner_url)) as owner:
        owner.cursor().execute("INSERT INTO event_dropped VALUES (%s, 1, 1)", (TENANT,))
    owner.close()
    return account


def as_application(database: Database, tenant: str | None):
    """A raw connection of the application's role, with or without a tenant."""
    connection = psycopg2.connect(libpq(database.app_url))
    if tenant is not None:
        connection.cursor().execute("SELECT set_config('metabuilder.tenant_id', %s, false)", (tenant,))
    return connection.cursor()


@pytest.mark.parametrize("table", [*TABLES, *VIEWS])
@pytest.mark.parametrize("tenant", [OTHER, "", None])
def test_reads_of_another_tenant_or_none_see_no_rows(filled, database: Database, table: str, tenant) -> None:
    own = as_application(database, TENANT)
    own.execute(f"SELECT count(*) FROM {table}")
    assert own.fetchone()[0] > 0, "the test needs a row that could leak"

    other = as_application(database, tenant)
    other.execute(f"SELECT count(*) FROM {table} WHERE tenant_id = %s OR true", (TENANT,))

    assert other.fetchone() == (0,)


@pytest.mark.parametrize("table", TABLES)
def test_updates_and_deletes_of_another_tenant_touch_nothing(filled, database: Database, table: str) -> None:
    for statement in (f"UPDATE {table} SET tenant_id = '{OTHER}'", f"DELETE FROM {table}"):
        other = as_application(database, OTHER)
        try:
            other.execute(statement)
            assert other.rowcount == 0
        except psycopg2.errors.InsufficientPrivilege:
            assert table in ("event", "event_dropped", "queued_task", "credential"), "whose rows nobody changes so"


@pytest.mark.parametrize("table", TABLES)
def test_a_row_cannot_be_moved_to_another_tenant(filled, database: Database, table: str) -> None:
    own = as_application(database, TENANT)
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        own.execute(f"UPDATE {table} SET tenant_id = %s", (OTHER,))


def test_rows_of_another_tenant_cannot_be_copied_in(database: Database) -> None:
    row = [wire.text(OTHER), wire.text("key"), wire.bigint(1), wire.binary(b"x")]
    with (
        pytest.raises(Exception, match="row-level security"),
        tenant_transaction(TENANT) as connection,
    ):
        copy.bulk_insert(connection, "blob", ("tenant_id", "sha256", "size", "content"), [row])


def test_intake_views_show_nothing(filled, database: Database) -> None:
    own = as_application(database, TENANT)
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        own.execute("SELECT * FROM intake_email_message")


@pytest.mark.parametrize("view", VIEWS)
def test_the_views_only_read(filled, database: Database, view: str) -> None:
    for statement in (f"DELETE FROM {view}", f"UPDATE {view} SET id = 'x'", f"INSERT INTO {view} (id) VALUES ('x')"):
        with pytest.raises(psycopg2.Error, match=r"permission denied|cannot"):
            as_application(database, TENANT).execute(statement)


def test_the_views_show_what_the_tables_have(filled, database: Database) -> None:
    own = as_application(database, TENANT)
    own.execute(
        "SELECT attachment.content, blob.content, account_name, email_address, folder.user_id, message.user_id "
        "FROM attachment_view AS attachment JOIN message_view AS message ON message.id = email_message_id "
        "JOIN folder_view AS folder ON folder.id = folder_id JOIN blob ON blob.size = attachment.size"
    )
    [(content, stored, *of_account)] = own.fetchall()
    assert bytes(content) == bytes(stored)
    assert of_account == [filled.account_name, filled.email_address, USER, USER]


def test_a_view_reads_no_table_of_which_no_column_is_wanted(filled, database: Database) -> None:
    own = as_application(database, TENANT)
    own.execute("EXPLAIN SELECT subject FROM message_view UNION ALL SELECT filename FROM attachment_view")
    plan = " ".join(line for (line,) in own.fetchall())
    read = set(re.findall(r" on (\w+) ", plan))
    assert {"email_message", "email_attachment"} <= read
    assert not {"email_client", "blob"} & read


def test_a_message_cannot_point_into_another_tenants_folder(filled, database: Database) -> None:
    own = as_application(database, TENANT)
    own.execute("SELECT email_client_id, id FROM email_folder LIMIT 1")
    account_id, folder_id = own.fetchone()
    other = as_application(database, OTHER)
    with pytest.raises(psycopg2.errors.ForeignKeyViolation):
        other.execute(
            "INSERT INTO email_message (tenant_id, id, email_client_id, folder_id, uidvalidity, imap_uid, subject, "
            "headers, size) VALUES (%s, 'm', %s, %s, 1, 1, '', '{}', 0)",
            (OTHER, account_id, folder_id),
        )


def test_the_application_cannot_switch_its_guard_off(filled, database: Database) -> None:
    for statement in (
        "ALTER TABLE email_message DISABLE ROW LEVEL SECURITY",
        "SET ROLE metabuilder_owner",
        "DROP POLICY tenant ON email_message",
        "ALTER ROLE metabuilder BYPASSRLS",
    ):
        other = as_application(database, OTHER)
        with pytest.raises(psycopg2.Error):
            other.execute(statement)


def test_the_tenant_ends_with_its_transaction(filled) -> None:
    with tenant_transaction(TENANT) as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM email_client").scalar_one() == 1
    with unbound_transaction() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM email_client").scalar_one() == 0


def test_a_connection_that_was_closed_while_it_was_idle_is_not_used(filled, database: Database) -> None:
    with tenant_transaction(TENANT) as connection:
        before = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        as_application(database, None).execute("SELECT pg_terminate_backend(%s, 5000)", (before,))
    as_superuser(database.server, f"SELECT pg_terminate_backend({before}, 5000)")

    with tenant_transaction(TENANT) as connection:
        assert connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one() != before


@pytest.mark.parametrize(("tenant", "user"), [(OTHER, USER), (TENANT, "user-2")])
def test_an_account_of_somebody_else_is_not_found(filled, tenant: str, user: str) -> None:
    with pytest.raises(NotFoundError) as somebody_elses:
        take_lease(tenant, user, filled.id, "owner", 60)
    with pytest.raises(NotFoundError) as nobodys, tenant_transaction(tenant) as connection:
        get_account(connection, tenant, user, "no-such-account")
    assert str(somebody_elses.value) == str(nobodys.value)


def test_two_tenants_may_use_the_same_names(filled, mailbox: Mailbox) -> None:
    new = NewAccount("mail", "a@example.org", mailbox.host, mailbox.port, "none", mailbox.user, mailbox.password)
    add_account(OTHER, USER, new)
    theirs = find_account(OTHER, "mail")
    tally = sync(theirs)
    assert theirs.id != filled.id
    assert tally.total("synced") == 2
