"""periodic_sync: accounts that are due are queued, each once, whoever asks."""

import threading
from collections.abc import Callable, Iterator

import psycopg2
import pytest
from sqlalchemy import create_engine, text

from native.postgres import libpq
from tasks.errors import MailServerUnavailableError
from tasks.storage.accounts.dispatch import claim_due_accounts, unclaim_accounts
from tasks.storage.accounts.rows import NewAccount, add_account, clear_error, find_account, record_failure
from tests.conftest import Database, register
from tests.support.application import application
from tests.support.mailbox import Mailbox
from tests.support.servers import RedisServer
from tests.support.worker import wait_until

INTERVAL = 300


@pytest.fixture
def accounts(database: Database) -> list[str]:
    """Ten accounts of five tenants, none synced yet."""
    return [
        add_account(
            f"tenant-{number % 5}",
            "user-1",
            NewAccount(f"mail {number}", f"a{number}@example.org", "127.0.0.1", 9, "none", "a", "p"),
        )
        for number in range(10)
    ]


@pytest.fixture
def as_owner(database: Database) -> Iterator[Callable[[str], None]]:
    connection = psycopg2.connect(libpq(database.owner_url))
    connection.autocommit = True
    yield lambda statement: connection.cursor().execute(statement)
    connection.close()


def claim(batch: int = 100) -> list[str]:
    return [due.email_client_id for found in claim_due_accounts(batch, INTERVAL) for due in found]


def test_accounts_of_all_tenants_are_claimed_once(accounts: list[str]) -> None:
    [due] = claim_due_accounts(100, INTERVAL)

    assert sorted(account.email_client_id for account in due) == sorted(accounts)
    assert {account.tenant_id for account in due} == {f"tenant-{n}" for n in range(5)}
    assert claim() == []


def test_dispatchers_at_once_share_the_accounts(accounts: list[str]) -> None:
    # Given eight dispatchers that take two at a time
    claimed: list[str] = []
    together = threading.Barrier(8)

    def dispatch() -> None:
        together.wait()
        claimed.extend(claim(2))

    threads = [threading.Thread(target=dispatch) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    claimed += claim()  # what one skipped because another had it locked

    assert sorted(claimed) == sorted(accounts)


NOT_DUE = {
    "disabled": "is_enabled = false",
    "sync disabled": "is_sync_enabled = false",
    "paused": "paused_at = now()",
    "just synced": "next_sync_at = now() + interval '1 second'",
    "being synced": "lease_owner = 'x:y', lease_until = now() + interval '10 seconds'",
}


@pytest.mark.parametrize("change", NOT_DUE.values(), ids=NOT_DUE)
def test_an_account_that_is_not_due_is_left_alone(
    accounts: list[str], as_owner: Callable[[str], None], change: str
) -> None:
    as_owner(f"UPDATE email_client SET {change} WHERE id = '{accounts[3]}'")

    assert sorted(claim()) == sorted(set(accounts) - {accounts[3]})


LATER = f"next_sync_at = next_sync_at - interval '{INTERVAL} seconds'"
DUE = {
    "its sync ran": f"sync_queued_at = NULL, {LATER}",
    "its lease ran out": f"sync_queued_at = NULL, {LATER}, lease_owner = 'x', lease_until = now() - interval '1 s'",
    "its place in the queue expired": f"sync_queued_at = sync_queued_at - interval '{INTERVAL} seconds', {LATER}",
}


@pytest.mark.parametrize("change", DUE.values(), ids=DUE)
def test_an_account_is_due_again(accounts: list[str], as_owner: Callable[[str], None], change: str) -> None:
    claim()
    as_owner(f"UPDATE email_client SET {change} WHERE id = '{accounts[3]}'")

    assert claim() == [accounts[3]]


def test_a_claim_makes_it_due_before_the_dispatcher_runs_again_each_at_its_own_time(
    accounts: list[str], database: Database
) -> None:
    claim()
    with create_engine(database.owner_url).connect() as connection:
        waits = connection.scalars(
            text("SELECT extract(epoch FROM next_sync_at - sync_queued_at)::float FROM email_client")
        ).all()
    assert all(0.8 * INTERVAL <= wait <= 0.9 * INTERVAL for wait in waits)
    assert len(set(waits)) == len(accounts)


def test_those_due_longest_are_first(accounts: list[str], as_owner: Callable[[str], None]) -> None:
    # Two of one tenant
    as_owner(f"UPDATE email_client SET next_sync_at = now() - interval '2 hours' WHERE id = '{accounts[5]}'")

    claimed = claim(1)

    assert claimed.index(accounts[5]) < claimed.index(accounts[0])


def test_a_small_tenant_does_not_wait_behind_a_large_one(
    accounts: list[str], as_owner: Callable[[str], None]
) -> None:
    # Given a tenant whose thousand accounts have been due for longer than anybody's, and whose name is first
    as_owner("INSERT INTO credential (tenant_id, id, kind, ciphertext) VALUES ('a-large-one', 'c', 'password', '')")
    as_owner(
        "INSERT INTO email_client (tenant_id, id, user_id, account_name, email_address, protocol, hostname, port, "
        "encryption, username, credential_id, next_sync_at) SELECT 'a-large-one', n, 'u', n, '', 'imap', 'h', 1, "
        "'none', '', 'c', now() - interval '1 day' FROM generate_series(1, 1000) AS n"
    )

    claimed = claim(50)

    assert len(claimed) == 1000 + len(accounts)
    assert max(map(claimed.index, accounts)) < 25


def test_an_account_that_fails_waits_as_long_again_as_it_has_been_failing(
    accounts: list[str], as_owner: Callable[[str], None], database: Database
) -> None:
    account = find_account("tenant-0", "mail 0")

    def wait_after(failing: str) -> float:
        as_owner(f"UPDATE email_client SET failing_since = {failing} WHERE id = '{account.id}'")
        record_failure(account, MailServerUnavailableError("down"))
        with create_engine(database.owner_url).connect() as connection:
            return connection.scalar(
                text("SELECT extract(epoch FROM next_sync_at - now())::float FROM email_client WHERE id = :id"),
                {"id": account.id},
            )

    waits = [wait_after(f) for f in ("NULL", *(f"now() - interval '{n} minutes'" for n in (5, 10, 40, 9999)))]

    for wait, longest in zip(waits, (300, 300, 600, 2400, 6 * 3600), strict=True):
        assert 0.75 * longest - 1 <= wait <= longest
    assert account.id not in claim()
    # A person who mended it does not wait.
    clear_error(account)
    assert claim() == [account.id]


def test_what_could_not_be_queued_is_due_at_once(accounts: list[str]) -> None:
    [claimed] = claim_due_accounts(100, INTERVAL)

    unclaim_accounts(claimed[:3])
    unclaim_accounts(claimed[3:5], INTERVAL // 2)

    assert sorted(claim()) == sorted(due.email_client_id for due in claimed[:3])


def test_what_nobody_asked_for_is_given_back(accounts: list[str], database: Database) -> None:
    # Given a dispatcher that stops after its first batch, when the next is claimed already
    claims = claim_due_accounts(5, INTERVAL)
    first = next(claims)
    with create_engine(database.owner_url).connect() as connection:
        due = text("SELECT count(*) FROM email_client WHERE next_sync_at <= clock_timestamp()")
        wait_until(lambda: connection.scalar(due) == 0, "the second batch is claimed")
    claims.close()

    assert sorted(claim() + [due.email_client_id for due in first]) == sorted(accounts)


def test_of_a_limited_host_no_more_are_queued_than_it_can_serve(
    accounts: list[str], as_owner: Callable[[str], None], redis: RedisServer, environment: Callable[..., None]
) -> None:
    # One connection, and an interval of four seconds, which is four syncs.
    environment(REDIS_URL=redis.url, MAIL_HOST_CONNECTIONS="small.example=1", SYNC_INTERVAL_SECONDS="4")
    as_owner(f"UPDATE email_client SET hostname = 'small.example' WHERE id <> '{accounts[0]}'")
    with application() as app:
        periodic_sync = app.tasks["email_service.tasks.periodic_sync"]
        first = periodic_sync.apply().get()
        as_owner("UPDATE email_client SET next_sync_at = next_sync_at - interval '2 seconds'")
        second = periodic_sync.apply().get()

    assert (first["accounts_synced"], first["accounts_deferred"]) == (5, 5)
    # The others have their turn in the next run.
    assert (second["accounts_synced"], second["accounts_deferred"]) == (4, 1)


def test_a_host_is_one_host_however_its_name_is_written(database: Database, mailbox: Mailbox) -> None:
    account = register(mailbox, hostname="Small.Example", smtp_hostname="SMTP.Small.Example")

    assert (account.hostname, account.smtp_hostname) == ("small.example", "smtp.small.example")


def test_a_broker_that_is_away_loses_no_account(
    accounts: list[str], redis: RedisServer, environment: Callable[..., None]
) -> None:
    environment(REDIS_URL=redis.url, CELERY_BROKER_URL="redis://127.0.0.1:1")
    with application() as app:
        result = app.tasks["email_service.tasks.periodic_sync"].apply().get()

    assert (result["status"], result["accounts_synced"], result["accounts_failed"]) == ("partial", 0, 10)
    assert sorted(claim()) == sorted(accounts)


def test_each_is_queued_as_a_sync_of_its_own_that_expires(
    accounts: list[str], redis: RedisServer, environment: Callable[..., None]
) -> None:
    environment(REDIS_URL=redis.url)
    with application() as app:
        first = app.tasks["email_service.tasks.periodic_sync"].apply().get()
        second = app.tasks["email_service.tasks.periodic_sync"].apply().get()

        assert (first["status"], first["accounts_synced"], first["accounts_failed"]) == ("success", 10, 0)
        assert (second["accounts_synced"], second["task_ids"]) == (0, [])
        with app.connection_for_read() as connection, connection.SimpleQueue("sync") as queue:
            messages = [queue.get(timeout=5) for _ in accounts]
            with pytest.raises(queue.Empty):
                queue.get_nowait()
        assert {message.headers["id"] for message in messages} == set(first["task_ids"])
        assert {message.payload[0][0] for message in messages} == set(accounts)
        assert all(message.headers["expires"] for message in messages)
