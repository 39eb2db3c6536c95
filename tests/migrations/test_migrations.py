"""The migrations make exactly the tables of the models, with every tenant behind its policy."""

import subprocess
import sys

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, ForeignKeyConstraint, PrimaryKeyConstraint, UniqueConstraint, create_engine, text

from tasks.storage.messages.deletions import note_messages, noted_messages
from tasks.storage.migrate import ReleaseTooOldError, current_and_head, downgrade, upgrade
from tasks.storage.models import Base
from tests.conftest import Database

TABLES = sorted(Base.metadata.tables)
# Tables that belong to no tenant, which only functions read and write that run as the owner.
OF_NO_TENANT = ["mail_watcher"]
# Tables that belong to no tenant, and that everybody may read and nobody else write.
OF_ALL_TENANTS = ["database_restore"]


@pytest.fixture
def owner(database: Database) -> Engine:
    """The owner's role in a migrated database."""
    return create_engine(database.owner_url)


def test_migrated_schema_equals_the_models(owner: Engine) -> None:
    with owner.connect() as connection:
        # The partitions of a table are no tables of their own to the models.
        partitions = connection.scalars(text("SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r'"))
        apart = set(partitions)
        context = MigrationContext.configure(
            connection,
            opts={"compare_server_default": True, "include_name": lambda name, *_: name not in apart},
        )
        assert compare_metadata(context, Base.metadata) == []


def test_a_release_that_is_older_than_the_schema_is_refused(owner: Engine, database: Database) -> None:
    with owner.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ReleaseTooOldError, match="at revision 9999, which a newer release made: run that one"):
        upgrade(database.owner_url)
    done = subprocess.run(
        [sys.executable, "-m", "tasks.storage.migrate"],
        input=database.owner_url,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(
        "error: This release is older than the schema of the database. (that is at revision 9999"
    )


def test_every_table_forces_row_level_security(owner: Engine) -> None:
    with owner.connect() as connection:
        forced = connection.scalars(
            text(
                "SELECT relname FROM pg_class WHERE relrowsecurity AND relforcerowsecurity "
                "AND relnamespace = 'public'::regnamespace ORDER BY relname"
            )
        ).all()
    assert forced == TABLES


def test_the_application_has_no_right_to_what_belongs_to_no_tenant(owner: Engine) -> None:
    with owner.connect() as connection:
        for table in OF_NO_TENANT:
            granted = "SELECT count(*) FROM information_schema.role_table_grants WHERE table_name = :table AND "
            assert not connection.scalar(text(granted + "grantee <> 'metabuilder_owner'"), {"table": table})


def test_nobody_but_the_owner_writes_what_belongs_to_all_tenants(owner: Engine) -> None:
    with owner.connect() as connection:
        granted = connection.execute(
            text(
                "SELECT table_name, grantee, privilege_type FROM information_schema.role_table_grants "
                "WHERE table_name = ANY(:tables) AND grantee <> 'metabuilder_owner'"
            ),
            {"tables": OF_ALL_TENANTS},
        ).all()
    assert [tuple(row) for row in granted] == [(table, "metabuilder", "SELECT") for table in OF_ALL_TENANTS]


@pytest.mark.parametrize("table", [table for table in TABLES if table not in (*OF_NO_TENANT, *OF_ALL_TENANTS)])
def test_every_key_begins_with_the_tenant(table: str) -> None:
    for constraint in Base.metadata.tables[table].constraints:
        if isinstance(constraint, PrimaryKeyConstraint | UniqueConstraint | ForeignKeyConstraint):
            assert next(iter(constraint.columns)).name == "tenant_id", constraint.name


def test_intake_views_have_the_columns_of_their_tables_in_order(owner: Engine) -> None:
    columns = text(
        "SELECT array_agg(attname::text ORDER BY attnum) FROM pg_attribute "
        "WHERE attrelid = CAST(:relation AS regclass) AND attnum > 0 AND NOT attisdropped"
    )
    with owner.connect() as connection:
        views = connection.scalars(text("SELECT viewname FROM pg_views WHERE viewname LIKE 'intake%'")).all()
        assert views
        for view in views:
            table = view.removeprefix("intake_")
            assert connection.scalar(columns, {"relation": view}) == connection.scalar(columns, {"relation": table})


def test_down_and_up_again(database: Database) -> None:
    downgrade(database.owner_url, "base")
    assert current_and_head(database.owner_url)[0] is None
    upgrade(database.owner_url)
    current, head = current_and_head(database.owner_url)
    assert current == head


def test_two_migrators_at_once_do_the_work_once(database: Database) -> None:
    downgrade(database.owner_url, "base")
    script = f"from tasks.storage.migrate import upgrade; upgrade({database.owner_url!r})"
    migrators = [
        subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]

    errors = [migrator.communicate(timeout=60)[1] for migrator in migrators]

    assert [migrator.returncode for migrator in migrators] == [0, 0], errors
    current, head = current_and_head(database.owner_url)
    assert current == head


def test_the_command_migrates_the_database_named_on_standard_input(database: Database) -> None:
    run = [sys.executable, "-m", "tasks.storage.migrate"]
    downgrade(database.owner_url, "base")
    first = subprocess.run(run, input=database.owner_url, capture_output=True, text=True, check=True)
    _, head = current_and_head(database.owner_url)
    assert first.stdout == f"migrated from None to {head}\n"
    second = subprocess.run(run, input=database.owner_url, capture_output=True, text=True, check=True)
    assert second.stdout == f"already at {head}\n"


def test_the_command_says_what_is_wrong_without_the_password(database: Database) -> None:
    url = database.owner_url.replace(f":{database.server.port}/", ":1/")
    run = [sys.executable, "-m", "tasks.storage.migrate"]
    refused = subprocess.run(run, input=url, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: ")
    assert database.server.postgres.passwords.owner not in refused.stderr


def test_accounts_that_worked_are_no_new_ones_to_whom_a_refused_login_is_final(database: Database) -> None:
    # Given accounts of the release before: synced or not, paused or not, having sent or not
    downgrade(database.owner_url, "0014")
    engine = create_engine(database.owner_url)
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO credential (tenant_id, id, kind, ciphertext) VALUES ('t', 'c', 'password', '')")
        )
        for name, synced, paused in (("new", None, None), ("well", "now", None), ("paused", "now", "now")):
            connection.execute(
                text(
                    "INSERT INTO email_client (tenant_id, id, user_id, account_name, email_address, protocol, "
                    "hostname, port, encryption, username, credential_id, last_sync_at, paused_at, smtp_paused_at) "
                    "VALUES "
                    "('t', :name, 'u', :name, 'a@example.org', 'imap', 'h', 1, 'none', 'a', 'c', "
                    "CAST(:synced AS timestamptz), CAST(:paused AS timestamptz), CAST(:paused AS timestamptz))"
                ),
                {"name": name, "synced": synced, "paused": paused},
            )
            if synced:
                connection.execute(
                    text(
                        "INSERT INTO outbox_message (tenant_id, id, email_client_id, key, digest, message_id, "
                        "sender, recipients, state, size, accepted_at) "
                        "VALUES ('t', :name, :name, 'key:1', '', 'm', 'a@b', '[]', 'sent', 1, now())"
                    ),
                    {"name": name},
                )

    upgrade(database.owner_url)

    with engine.begin() as connection:
        found = connection.execute(
            text(
                "SELECT id, login_mechanism, smtp_login_mechanism, login_failures, login_refused_since, "
                "login_retry_at FROM email_client ORDER BY id"
            )
        ).all()
    assert [tuple(row) for row in found] == [
        ("new", None, None, 0, None, None),
        ("paused", None, None, 0, None, None),
        ("well", "unknown", "unknown", 0, None, None),
    ]


def test_notes_of_deletions_are_the_same_for_the_release_before_and_this_one(database: Database) -> None:
    # Given a note from before the migration
    downgrade(database.owner_url, "0022")
    engine = create_engine(database.owner_url)
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO deletion (tenant_id, task_id, email_message_id) VALUES ('t', 'a', 'm')"))
    upgrade(database.owner_url)

    # When workers of both releases note messages, each twice
    before = (
        "INSERT INTO deletion (tenant_id, task_id, email_message_id) VALUES ('t', 'b', 'm') "
        "ON CONFLICT (tenant_id, task_id, email_message_id) DO UPDATE SET created_at = now()"
    )
    with engine.begin() as connection:
        for _ in range(2):
            connection.execute(text(before))
            note_messages(connection, "t", ["a", "b", "c"], ["m"])

    # Then both know each of them, once
    with engine.begin() as connection:
        notes = connection.execute(text("SELECT task_id, task_key FROM deletion ORDER BY 1")).all()
        known = [noted_messages(connection, "t", [key], 1) for key in "abc"]
    assert [tuple(note) for note in notes] == [("a", "a"), ("b", "b"), ("c", "c")]
    assert known == [{"m"}] * 3


def test_an_older_release_than_the_schema_is_told_what_to_do(database: Database) -> None:
    with create_engine(database.owner_url).begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    run = [sys.executable, "-m", "tasks.storage.migrate"]
    refused = subprocess.run(run, input=database.owner_url, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert refused.stderr.startswith(
        "error: This release is older than the schema of the database. (that is at revision 9999"
    )
