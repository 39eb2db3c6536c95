"""Real servers for the tests: started once per run, a fresh database and mailbox for each test.

A server that cannot be had skips the tests that need it on a laptop, with the reason, and fails them in CI.
"""

import itertools
import os
from collections.abc import Callable, Iterator
from typing import TypeVar

import psycopg2
import pytest
import redis as redis_client
from cryptography.fernet import Fernet
from hypothesis import settings as hypothesis_settings

from native.dovecot import Dovecot
from native.errors import StackError
from native.postgres import libpq
from tasks import settings
from tasks.engine.run import Tally
from tasks.engine.sync.account import SyncRequest, sync_account
from tasks.secrecy.forms import Known
from tasks.secrecy.secrets import secrets_kept
from tasks.storage import session
from tasks.storage.accounts.rows import Account, NewAccount, add_account, find_account
from tasks.storage.migrate import upgrade
from tests.support.courier import Courier
from tests.support.cyrus import Cyrus
from tests.support.databases import Database
from tests.support.mailbox import Mailbox
from tests.support.servers import PostgresServer, RedisServer
from tests.support.tried_twice import pytest_terminal_summary as pytest_terminal_summary

MAIL_PASSWORD = 'sample: a password with @:/#%$ " in it'
TENANT, USER = "tenant-1", "user-1"

_numbers = itertools.count(1)

# How long an example takes on a busy machine says nothing; Hypothesis allows 200 ms.
hypothesis_settings.register_profile("any machine", parent=hypothesis_settings(), deadline=None)
hypothesis_settings.load_profile("any machine")

S = TypeVar("S", Cyrus, Courier)


def unavailable(reason: str) -> None:
    """Skip on a laptop, fail in CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """PostgreSQL with the schema in its database, which the tests' databases are copies of.

    It does not wait for the disk at each of these copies; what is committed outlives the server all the same, and
    only a crash of the machine would take it. Without autovacuum no database keeps statistics of rows that an earlier
    test left, by which a statement on thousands of rows would be planned for none.
    """
    settings = {"fsync": "off", "autovacuum": "off"}
    with PostgresServer(tmp_path_factory.mktemp("postgres"), settings=settings) as server:
        upgrade(server.owner_url)
        yield server


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Redis, with what earlier tests left there."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis(redis_server: RedisServer) -> RedisServer:
    """Redis, empty."""
    with redis_client.Redis(port=redis_server.port, password=redis_server.password) as client:
        client.flushall()
    return redis_server


@pytest.fixture(scope="session")
def dovecot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dovecot]:
    """Dovecot without encryption, IMAP and POP3; every user name has a mailbox of its own."""
    root = tmp_path_factory.mktemp("dovecot")
    server = Dovecot(root / "server", root / "mail", MAIL_PASSWORD, pop3=True)
    try:
        server.start()
    except StackError as error:
        unavailable(str(error))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def cyrus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cyrus]:
    """Cyrus without encryption; every user name has a mailbox of its own."""
    yield from _running(Cyrus(tmp_path_factory.mktemp("cyrus"), MAIL_PASSWORD))


@pytest.fixture(scope="session")
def cyrus_without_ids(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cyrus]:
    """Cyrus as it was before folders had a MAILBOXID."""
    yield from _running(Cyrus(tmp_path_factory.mktemp("cyrus"), MAIL_PASSWORD, hidden="OBJECTID"))


@pytest.fixture(scope="session")
def courier(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Courier]:
    """Courier without encryption; every user name has a mailbox of its own."""
    yield from _running(Courier(tmp_path_factory.mktemp("courier") / "mail", MAIL_PASSWORD))


def _running(server: S) -> Iterator[S]:
    try:
        server.start()
    except StackError as error:
        unavailable(str(error))
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(autouse=True)
def _secrets_of_one_test() -> Iterator[None]:
    """Whatever a test logs in with is known as a secret to that test alone, as it would be to one task."""
    with secrets_kept(Known()):
        yield


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Sets variables for this test and makes the settings be read anew; called again, it adds to them."""

    def set_variables(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        forget()

    def forget() -> None:
        settings.get_settings.cache_clear()
        if session.get_engine.cache_info().currsize:
            session.get_engine().dispose()
        session.get_engine.cache_clear()

    set_variables(
        CREDENTIAL_ENCRYPTION_KEY=Fernet.generate_key().decode(),
        MAIL_TIMEOUT="10",
        MAIL_ALLOWED_NETWORKS="127.0.0.0/8",
    )
    yield set_variables
    forget()


@pytest.fixture
def database(postgres: PostgresServer, environment: Callable[..., None]) -> Iterator[Database]:
    """The schema, empty; the settings point to it."""
    database = postgres.spare.pop() if postgres.spare else Database(postgres, f"test_{next(_numbers)}")
    environment(DATABASE_URL=database.worker_url)
    yield database
    environment()
    if database.empty():
        postgres.spare.append(database)
    else:
        postgres.drop_database(database.name)


def as_superuser(server: PostgresServer, *statements: str) -> None:
    """Run statements outside of any transaction."""
    connection = psycopg2.connect(libpq(server.superuser_url))
    connection.autocommit = True
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
    connection.close()


@pytest.fixture
def mailbox(dovecot: Dovecot) -> Mailbox:
    """An empty mailbox."""
    return Mailbox(dovecot.host, dovecot.port, f"user{next(_numbers)}", MAIL_PASSWORD)


@pytest.fixture(params=["dovecot", "cyrus", "cyrus_without_ids", "courier"])
def any_mailbox(request: pytest.FixtureRequest) -> Mailbox:
    """An empty mailbox on each kind of server."""
    server = request.getfixturevalue(request.param)
    above = "INBOX." if request.param == "courier" else ""
    return Mailbox(server.host, server.port, f"user{next(_numbers)}", MAIL_PASSWORD, above=above)


@pytest.fixture
def any_account(database: Database, any_mailbox: Mailbox) -> Account:  # the account lives in it
    """That mailbox as an account of TENANT and USER."""
    return register(any_mailbox)


@pytest.fixture
def maildrop(database: Database, dovecot: Dovecot, mailbox: Mailbox) -> Account:
    """The mailbox's INBOX by POP3, as an account of TENANT and USER."""
    return register(mailbox, protocol="pop3", port=dovecot.pop3_port)


@pytest.fixture
def account(database: Database, mailbox: Mailbox) -> Account:  # the account lives in it
    """The mailbox as an account of TENANT and USER."""
    return register(mailbox)


def register(mailbox: Mailbox, name: str = "mail", **changes: object) -> Account:
    """Register a mailbox as an account, with fields of NewAccount changed."""
    new = NewAccount(
        account_name=name,
        email_address=f"{mailbox.user}@example.org",
        hostname=mailbox.host,
        port=mailbox.port,
        encryption="none",
        username=mailbox.user,
        password=mailbox.password,
    )._replace(**changes)
    add_account(TENANT, USER, new)
    return find_account(TENANT, name)


def sync(account: Account, *, full_since: float | None = None, folder_id: str | None = None) -> Tally:
    """Sync in this process to the end, and what was done."""
    tally = Tally()
    request = SyncRequest(account.id, account.tenant_id, account.user_id, folder_id, full_since)
    assert sync_account(request, "test", tally, 600, lambda progress: None)
    return tally
