"""A PostgreSQL whose clock is minutes off, or is set: all times that it keeps are compared with its own clock."""

import json
import re
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from time import monotonic

import psycopg2
import pytest
import redis as redis_client
from click.testing import CliRunner

from manage import account as command
from native import stores
from native.postgres import SUPERUSER, libpq
from native.state import ROOT
from tasks.celery_app import sync_emails
from tasks.engine.tokens import access_token
from tasks.errors import (
    DeliveryWaitsError,
    EmailError,
    LeaseHeldError,
    LeaseLostError,
    LoginDelayedError,
    LoginRefusedError,
)
from tasks.registry import DUE_ACCOUNTS_SECONDS
from tasks.runtime.clocks import Watch, note_database
from tasks.storage.accounts.dispatch import claim_due_accounts
from tasks.storage.accounts.grants import Grant, Secrets, add_grant, store_tokens
from tasks.storage.accounts.leases import owner_of, renew_lease, take_lease
from tasks.storage.accounts.rows import Account
from tasks.storage.migrate import upgrade
from tasks.storage.session import database_now, tenant_transaction
from tasks.storage.waiting import ask_again, claim_waiting
from tests.conftest import TENANT, USER, Database, register, sync
from tests.integration.send.conftest import (  # noqa: F401 - fixtures
    Send,
    pools,
    row,
    send_once,
    sender,
    smtp,
)
from tests.support.clock import Clock
from tests.support.imap_faults import refuse
from tests.support.imap_server import ImapServer
from tests.support.mailbox import message
from tests.support.servers import PostgresServer, RedisServer
from tests.support.smtp_server import SmtpServer, reply
from tests.support.stored import quarantine, stored_uids

OFF = [600, -600]
BODIES = r"UID FETCH .*BODY\.PEEK\[\]"
_LEASE_SECONDS = 60
_OPERATIONS = ROOT / "docs" / "operations.md"


class _Postgres(PostgresServer):
    """One with a clock of its own."""

    def __init__(self, root: Path, clock: Clock) -> None:
        super().__init__(root, settings={"fsync": "off"})
        self.clock = clock

    def environment(self) -> dict[str, str]:
        return {**super().environment(), **self.clock.environment}


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """In place of the one that all tests share."""
    folder = tmp_path_factory.mktemp("postgres-clock")
    with _Postgres(folder / "server", Clock(folder)) as server:
        upgrade(server.owner_url)
        yield server


@pytest.fixture
def clock(postgres: PostgresServer) -> Iterator[Clock]:
    """That of PostgreSQL."""
    assert isinstance(postgres, _Postgres)
    yield postgres.clock
    postgres.clock.set(0)


@pytest.fixture
def server(database: Database) -> Iterator[ImapServer]:
    """A mailbox with two messages."""
    with ImapServer() as server:
        server.inbox.append(message(1), message(2))
        yield server


@pytest.mark.parametrize("off", OFF)
def test_a_login_is_tried_again_when_postgresql_says(off: int, clock: Clock, server: ImapServer) -> None:
    clock.set(off)
    account = register(server)
    sync(account)
    server.password = "changed"
    with pytest.raises(LoginRefusedError):
        sync(account)

    with pytest.raises(LoginDelayedError) as delayed:
        sync(account)
    assert delayed.value.retry_after == pytest.approx(300, abs=30)

    clock.set(off + 330)
    logins = server.logins
    with pytest.raises(LoginRefusedError):
        sync(account)
    assert server.logins == logins + 1


@pytest.mark.parametrize("off", OFF)
def test_a_token_lasts_as_long_as_it_was_given_for(off: int, clock: Clock, database: Database) -> None:
    clock.set(off)
    secrets = Secrets("refresh", access_token="access")
    with tenant_transaction(TENANT) as connection:
        credential_id = add_grant(connection, TENANT, Grant("other", "https://localhost/token", "me", "", secrets))
        store_tokens(connection, TENANT, credential_id, secrets, 400)

    assert access_token(TENANT, credential_id).expires_at - monotonic() == pytest.approx(400, abs=10)


@pytest.mark.parametrize("off", OFF)
def test_a_full_sync_tries_what_was_set_aside_and_ends(off: int, clock: Clock, server: ImapServer) -> None:
    clock.set(off)
    server.on(BODIES, refuse("NO [SERVERBUG] cannot read it"), times=None, uid=2)
    account = register(server)
    sync(account)
    assert quarantine() == {2: "refused"}
    server.rules.clear()

    done = sync_emails.apply((account.id, TENANT, USER), {"force_full_sync": True}, throw=True).get()

    assert (done["status"], done["messages_synced"]) == ("success", 1)
    assert 0 < done["sync_duration_seconds"] < 60
    assert stored_uids() == [1, 2]


@pytest.mark.parametrize("off", OFF)
def test_mail_waits_as_long_as_it_should_and_has_one_date(
    off: int,
    clock: Clock,
    sender: Account,  # noqa: F811 - a fixture
    send_once: Send,  # noqa: F811
    smtp: SmtpServer,  # noqa: F811
    environment: Callable[..., None],
) -> None:
    clock.set(off)
    environment(SMTP_RETRIES="0")
    smtp.on("connect", reply("421 not now"), times=1)
    with pytest.raises(DeliveryWaitsError):
        send_once(sender)
    now = database_now()
    assert [due.outbox_id for due in claim_waiting(10, 600)] == []

    clock.set(off + 130)
    assert [due.outbox_id for due in claim_waiting(10, 600)] == [row("id")]

    send_once(sender, task="task-2")
    date = parsedate_to_datetime(str(smtp.taken("Date")[0]))
    assert abs((date - now).total_seconds() - 130) < 20


def test_mail_waits_longer_by_what_the_clock_is_set_back_until_a_retry(
    clock: Clock,
    sender: Account,  # noqa: F811 - a fixture
    send_once: Send,  # noqa: F811
    smtp: SmtpServer,  # noqa: F811
    environment: Callable[..., None],
) -> None:
    environment(SMTP_RETRIES="0")
    clock.set(600)
    smtp.on("connect", reply("421 not now"), times=1)
    with pytest.raises(DeliveryWaitsError):
        send_once(sender)

    def claimed() -> list[str]:
        return [due.outbox_id for due in claim_waiting(10, 600)]

    for now, due in ((130, []), (740, [row("id")]), (130, [])):
        clock.set(now)
        assert claimed() == due
    assert ask_again(TENANT, ["queued"], None, only_looks=False) == [row("id")]
    assert claimed() == [row("id")]
    send_once(sender)
    assert (len(smtp.taken()), row()) == (1, "sent")


@pytest.mark.parametrize(("point", "state"), [("data", "sent"), ("dot", "unknown")])
def test_mail_goes_out_once_although_the_clock_is_set_ahead_in_the_midst_of_it(
    point: str,
    state: str,
    clock: Clock,
    sender: Account,  # noqa: F811 - a fixture
    send_once: Send,  # noqa: F811
    smtp: SmtpServer,  # noqa: F811
) -> None:
    """Another run takes the message over, as if the first had hung for ten minutes; after the dot it waits for a
    person."""
    ended: list[str] = []

    def run(task: str) -> None:
        try:
            ended.append(send_once(sender, task, key="same", subject="one").state)
        except EmailError as error:
            ended.append(error.code)

    def take_over() -> None:
        clock.set(600)
        run("other")

    smtp.on(point, take_over)
    run("first")
    assert len(ended) == 2
    assert (len(smtp.taken()), row()) == (1, state), ended


@pytest.mark.parametrize("off", OFF)
def test_an_account_is_overdue_by_postgresqls_clock(
    off: int, clock: Clock, server: ImapServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "connect", lambda: None)

    def listed(*options: str) -> str:
        return CliRunner().invoke(command.account, ["list", "--tenant", TENANT, *options]).stdout

    clock.set(off)
    sync(register(server))
    assert " ok " in listed()
    assert [one["is_overdue"] for one in json.loads(listed("--json"))] == [False]
    clock.set(off + DUE_ACCOUNTS_SECONDS + 100)
    assert " ok " in listed()
    clock.set(off + 9 * 60)
    assert "overdue" in listed()
    assert "00:09:" in listed()
    assert [one["is_overdue"] for one in json.loads(listed("--json"))] == [True]


def test_a_clock_that_is_set_back_delays_what_waits_until_an_operator_mends_that(
    clock: Clock, server: ImapServer, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "connect", lambda: None)

    def claimed() -> list[str]:
        return [one.email_client_id for batch in claim_due_accounts(10, 270) for one in batch]

    clock.set(600)
    synced, killed = register(server, "synced"), register(server, "killed")
    sync(synced)
    take_lease(TENANT, USER, killed.id, owner_of("killed"), _LEASE_SECONDS)
    claimed()
    clock.set(300)
    assert claimed() == []
    clock.set(0)
    assert claimed() == []
    listed = CliRunner().invoke(command.account, ["list", "--tenant", TENANT]).stdout
    assert "overdue: is to be synced every" in listed

    mend = re.search(r"^UPDATE email_client\n.*?;$", _OPERATIONS.read_text(), re.DOTALL | re.MULTILINE)
    assert mend is not None
    with psycopg2.connect(libpq(database.server.url(SUPERUSER, database.name))) as connection:
        connection.cursor().execute(mend[0])
    connection.close()
    assert sorted(claimed()) == sorted([synced.id, killed.id])
    take_lease(TENANT, USER, killed.id, owner_of("other"), _LEASE_SECONDS)


def test_a_lease_ends_by_postgresqls_clock_and_whoever_lost_it_commits_nothing(
    clock: Clock, server: ImapServer
) -> None:
    account = register(server)
    first, second = owner_of("first"), owner_of("second")
    clock.set(600)
    take_lease(TENANT, USER, account.id, first, _LEASE_SECONDS)
    with pytest.raises(LeaseHeldError) as held:
        take_lease(TENANT, USER, account.id, second, _LEASE_SECONDS)
    assert held.value.seconds_left == pytest.approx(_LEASE_SECONDS, abs=10)

    # Set back, it lasts until its holder renews it, by the clock as it is now
    clock.set(0)
    with tenant_transaction(TENANT) as connection:
        renew_lease(connection, account, first, _LEASE_SECONDS)
    clock.set(_LEASE_SECONDS + 5)
    take_lease(TENANT, USER, account.id, second, _LEASE_SECONDS)

    with tenant_transaction(TENANT) as connection, pytest.raises(LeaseLostError):
        renew_lease(connection, account, first, _LEASE_SECONDS)


@pytest.mark.parametrize("off", OFF)
def test_accounts_are_due_by_postgresqls_clock(off: int, clock: Clock, server: ImapServer) -> None:
    clock.set(off)
    account = register(server)
    for later, due in ((0, [account.id]), (0, []), (290, [account.id]), (290, []), (600, [account.id])):
        clock.set(off + later)
        assert [one.email_client_id for batch in claim_due_accounts(10, 270) for one in batch] == due


def test_it_is_said_that_the_clock_of_postgresql_is_off(
    clock: Clock, database: Database, redis: RedisServer, environment: Callable[..., None]
) -> None:
    environment(REDIS_URL=redis.url)
    watch = Watch()
    with redis_client.Redis(port=redis.port, password=redis.password) as client:
        note_database(client, database_now)
        assert not watch.look(client)
        clock.set(-600)
        note_database(client, database_now)
        assert watch.look(client)
    found = "the clock of PostgreSQL (127.0.0.1) is 600 s behind that of this host ("
    assert watch.words.startswith(found)
    check = stores.clocks_agree()
    assert (check.ok, check.warns) == (True, True)
    assert check.detail.startswith(found)
    assert check.advice == "Synchronise it (timedatectl status, systemd-timesyncd)"
