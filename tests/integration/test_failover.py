"""A PostgreSQL that became read-only, or a standby: a lost connection, and the next try finds the new primary."""

import secrets
from collections.abc import Callable, Iterator

import pytest

from native.postgres import WORKER
from tasks.errors import StorageUnavailableError
from tasks.settings import ConfigurationError
from tasks.storage import copy, wire
from tasks.storage.ids import new_id
from tasks.storage.migrate import upgrade
from tasks.storage.session import get_engine, tenant_transaction
from tests.conftest import TENANT, Database, as_superuser
from tests.support.failover import standby_of
from tests.support.proxy import Proxy
from tests.support.servers import PostgresServer
from tests.support.stored import rows

ADD_SECRET = "INSERT INTO credential (tenant_id, id, kind, ciphertext) VALUES (%s, %s, 'password', '')"


def insert() -> None:
    with tenant_transaction(TENANT) as connection:
        connection.exec_driver_sql(ADD_SECRET, (TENANT, new_id()))


def insert_by_copy() -> None:
    with tenant_transaction(TENANT) as connection:
        blob = [wire.text(TENANT), wire.text(secrets.token_hex(32)), wire.bigint(1), wire.binary(b"x")]
        copy.bulk_insert(connection, "blob", ["tenant_id", "sha256", "size", "content"], [blob])


def lock() -> None:
    with tenant_transaction(TENANT) as connection:
        connection.exec_driver_sql("SELECT id FROM credential FOR UPDATE")


@pytest.mark.parametrize("write", [insert, insert_by_copy, lock])
def test_sessions_that_are_read_only_are_not_used_again(database: Database, write: Callable[[], None]) -> None:
    # Given sessions that were opened while the database was read-only, and are kept
    as_superuser(database.server, f"ALTER DATABASE {database.name} SET default_transaction_read_only = on")
    with pytest.raises(StorageUnavailableError, match="cannot execute"):
        write()

    # When it is writable again, then so are we, whatever was open
    with tenant_transaction(TENANT) as first, tenant_transaction(TENANT) as second:
        assert {first.exec_driver_sql("SHOW transaction_read_only").scalar_one()} == {"on"}
        second.exec_driver_sql("SELECT 1")
    as_superuser(database.server, f"ALTER DATABASE {database.name} RESET default_transaction_read_only")
    with pytest.raises(StorageUnavailableError):
        write()
    write()


@pytest.fixture(scope="module")
def primary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    with PostgresServer(tmp_path_factory.mktemp("primary")) as server:
        upgrade(server.owner_url)
        yield server


@pytest.fixture(scope="module")
def standby(primary: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A streaming standby of the primary."""
    server = standby_of(primary, tmp_path_factory.mktemp("standby"))
    yield server
    server.stop()


@pytest.mark.parametrize("write", [insert, insert_by_copy, lock])
def test_the_new_primary_is_found_where_the_old_one_became_a_standby(
    primary: PostgresServer, standby: PostgresServer, environment: Callable[..., None], write: Callable[[], None]
) -> None:
    # Given an address that leads to what is a standby by now, and sessions that are open there
    with Proxy(("127.0.0.1", standby.port), rate=1e9) as address:
        url = primary.url(WORKER).replace(f":{primary.port}/", f":{address.port}/")
        environment(DATABASE_URL=url)
        try:
            with tenant_transaction(TENANT) as first, tenant_transaction(TENANT) as second:
                for session in (first, second):
                    assert session.exec_driver_sql("SELECT pg_is_in_recovery()").scalar_one() is True

            # When the address leads to the primary, then one try fails, and the next one is there
            address.target = ("127.0.0.1", primary.port)
            with pytest.raises(StorageUnavailableError, match="cannot execute"):
                write()
            write()
            with tenant_transaction(TENANT) as connection:
                assert connection.exec_driver_sql("SELECT pg_is_in_recovery()").scalar_one() is False
        finally:
            get_engine().dispose()


def end_own_session(database: Database) -> None:
    with tenant_transaction(TENANT) as connection:
        pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        as_superuser(database.server, f"SELECT pg_terminate_backend({pid})")
        connection.exec_driver_sql("SELECT 1")


def test_a_session_that_an_operator_ends_is_a_lost_one(database: Database) -> None:
    insert()
    with pytest.raises(StorageUnavailableError):
        end_own_session(database)
    insert()
    assert rows("SELECT count(*) FROM credential") == [(2,)]


def test_a_url_that_migrations_cannot_read_is_said_and_not_shown() -> None:
    with pytest.raises(
        ConfigurationError, match="the URL of the role that owns the tables must name each host"
    ) as said:
        upgrade("postgresql://owner:secret@one,,two/mail")
    assert "secret" not in str(said.value)
