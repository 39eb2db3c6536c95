"""periodic_sync: accounts that are due are queued, each once, whoever asks."""

import threading
from collections.abc import Callable, Iterator

import psycopg2
import pytest
import redis as redis_client

from native.postgres import libpq
from native.redis import RedisServer
from tasks.celery_app import celery_app, create_celery_app
from tasks.storage.accounts import NewAccount, add_account, claim_due_accounts
from tests.conftest import Database

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


def claim(limit: int = 100) -> list[str]:
    return [due.email_client_id for due in claim_due_accounts(limit, INTERVAL)]


def test_accounts_of_all_tenants_are_claimed_once(accounts: list[str]) -> None:
    due = list(claim_due_accounts(100, INTERVAL))

    assert sorted(account.email_client_id for account in due) == sorted(accounts)
    assert {account.tenant_id for account in due} == {f"tenant-{n}" for n in range(5)}
    assert claim() == []


def test_dispatchers_at_once_share_the_accounts(accounts: list[str]) -> None:
    # Given eight dispatchers that take two at a time
    claimed: list[str] = []
    together = threading.Barrier(8)

    def dispatch() -> None:
        together.wait()
        while found := claim(2):
            claimed.extend(found)

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
    "just synced": "last_sync_at = now()",
    "just failed": "last_error_at = now()",
    "being synced": "lease_owner = 'x:y', lease_until = now() + interval '10 seconds'",
    "of a protocol that cannot be synced": "protocol = 'pop3'",
}


@pytest.mark.parametrize("change", NOT_DUE.values(), ids=NOT_DUE)
def test_an_account_that_is_not_due_is_left_alone(
    accounts: list[str], as_owner: Callable[[str], None], change: str
) -> None:
    as_owner(f"UPDATE email_client SET {change} WHERE id = '{accounts[3]}'")

    assert sorted(claim()) == sorted(set(accounts) - {accounts[3]})


DUE = {
    "its interval is over": f"last_sync_at = now() - interval '{INTERVAL} seconds'",
    "its lease ran out": "lease_owner = 'x:y', lease_until = now() - interval '1 second'",
    "its claim is over": f"sync_queued_at = now() - interval '{INTERVAL} seconds'",
    "it failed an interval ago": f"last_error_at = now() - interval '{INTERVAL} seconds'",
}


@pytest.mark.parametrize("change", DUE.values(), ids=DUE)
def test_an_account_is_due_again(accounts: list[str], as_owner: Callable[[str], None], change: str) -> None:
    claim()
    change = change if "sync_queued_at" in change else f"sync_queued_at = NULL, {change}"
    as_owner(f"UPDATE email_client SET {change} WHERE id = '{accounts[3]}'")

    assert claim() == [accounts[3]]


def test_the_longest_waiting_is_first(accounts: list[str], as_owner: Callable[[str], None]) -> None:
    as_owner("UPDATE email_client SET last_sync_at = now() - interval '1 hour'")
    as_owner(f"UPDATE email_client SET last_sync_at = now() - interval '2 hours' WHERE id = '{accounts[7]}'")

    assert claim(1) == [accounts[7]]


def test_each_is_queued_as_a_sync_of_its_own_that_expires(
    accounts: list[str], redis: RedisServer, environment: Callable[..., None]
) -> None:
    environment(REDIS_URL=redis.url)
    app = create_celery_app()
    try:
        with redis_client.Redis(port=redis.port, password=redis.password) as client:
            client.flushall()
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
    finally:
        app.close()
        celery_app.set_current()
