"""kill -9 of the dispatcher half-way: what it had claimed and not queued is queued within one interval."""

import json
import time
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path

from tasks.periodic import _ACCOUNTS_PER_CLAIM
from tasks.registry import PERIODIC_SYNC
from tasks.storage.credentials import add_credential
from tasks.storage.session import tenant_transaction
from tests.conftest import TENANT
from tests.integration.faults.conftest import Queue, broker
from tests.support.application import application
from tests.support.servers import RedisServer
from tests.support.worker import Worker, wait_until

ACCOUNTS = 4 * _ACCOUNTS_PER_CLAIM
INTERVAL = 30


def add_accounts() -> set[str]:
    """Due at once, with mailboxes that nobody asks."""
    with tenant_transaction(TENANT) as connection:
        connection.exec_driver_sql(
            "INSERT INTO email_client (tenant_id, id, user_id, account_name, email_address, protocol, hostname, "
            "port, encryption, username, sync_interval, credential_id) SELECT %s, n::text, 'user', n::text, "
            "'a@example.org', 'imap', 'imap.example.org', 993, 'tls', 'a', %s, %s FROM generate_series(1, %s) AS n",
            (TENANT, INTERVAL, add_credential(connection, TENANT, "sample"), ACCOUNTS),
        )
    return {str(number) for number in range(1, ACCOUNTS + 1)}


def queued(server: RedisServer) -> list[str]:
    """The accounts of the syncs in the queue."""
    with broker(server) as client:
        return [json.loads(b64decode(json.loads(raw)["body"]))[0][0] for raw in client.lrange("sync", 0, -1)]


def test_no_account_is_lost_for_longer_than_an_interval(
    short_waits: None,
    redis: RedisServer,
    environment: Callable[..., None],
    tmp_path: Path,
    tasks_queue: Queue,
) -> None:
    environment(SYNC_INTERVAL_SECONDS=str(INTERVAL))
    accounts = add_accounts()
    with broker(redis) as client, Worker(tmp_path, queues="periodic") as worker:
        tasks_queue.app.send_task(PERIODIC_SYNC, queue="periodic")
        wait_until(lambda: client.llen("sync") > _ACCOUNTS_PER_CLAIM, "nothing is queued")
        worker.kill()
    killed = time.monotonic()
    before = queued(redis)

    # The next one goes on with what was not claimed, and touches nothing that was.
    with application() as app:
        app.tasks[PERIODIC_SYNC].apply().get()
        after = queued(redis)
        lost = accounts - set(after)
        assert len(after) == len(set(after))
        assert len(before) < ACCOUNTS
        # Those being queued, and those claimed meanwhile.
        assert 0 < len(lost) < 2 * _ACCOUNTS_PER_CLAIM

        # The one that Beat starts an interval later finds the rest.
        time.sleep(killed + INTERVAL - time.monotonic())
        app.tasks[PERIODIC_SYNC].apply().get()
    assert set(queued(redis)) == accounts
    print(f"killed after {len(before)} of {ACCOUNTS}; {len(lost)} accounts came one interval late")
