"""Redis and PostgreSQL restarted in the middle of a first sync: it finishes by itself, with each message once.

And PostgreSQL away for longer than any task has retries, or with a new password.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from native.dovecot import Dovecot
from native.postgres import WORKER
from tasks.registry import (
    CHECK_SPAM,
    CLEANUP_STALE_RESULTS,
    DELETE_EMAILS,
    EMPTY_TRASH,
    ENFORCE_TRASH_RETENTION,
    PERIODIC_SYNC,
    SEND_EMAIL,
    SYNC_EMAILS,
)
from tests.conftest import TENANT, USER, Database, register, sync
from tests.integration.faults.conftest import Queue, broker
from tests.integration.send.conftest import sending_account
from tests.support.mailbox import Mailbox, message
from tests.support.maildir import fill
from tests.support.proxy import Proxy
from tests.support.servers import PostgresServer, RedisServer
from tests.support.smtp_server import SmtpServer
from tests.support.stored import assert_counts_agree, column, quarantine, stored_uids
from tests.support.worker import Worker, wait_until

MESSAGES = 600
ALL = list(range(1, MESSAGES + 1))


@pytest.fixture
def slow_mailbox(dovecot: Dovecot, mailbox: Mailbox, database: Database) -> Iterator[Proxy]:
    fill(dovecot, mailbox, map(message, ALL))
    with Proxy((mailbox.host, mailbox.port), rate=150_000) as proxy:
        mailbox.port = proxy.port
        yield proxy


@pytest.fixture
def smtp() -> Iterator[SmtpServer]:
    with SmtpServer() as server:
        yield server


def wait_until_it_is_in_the_middle() -> None:
    wait_until(lambda: column("SELECT count(*) FROM email_message")[0] > 0, "nothing is stored")
    assert column("SELECT count(*) FROM email_message")[0] < MESSAGES


def wait_until_all_is_done() -> None:
    wait_until(lambda: column("SELECT last_sync_at FROM email_client")[0], "the sync does not finish", 40)
    assert stored_uids() == ALL
    assert quarantine() == {}
    assert_counts_agree()


def restart(server: PostgresServer | RedisServer) -> None:
    server.restart()


def crash(server: PostgresServer | RedisServer) -> None:
    server.kill()
    server.start()


@contextmanager
def renewed_password(server: PostgresServer) -> Iterator[None]:
    """The workers' role has another password, and its sessions have ended."""

    def set_password(password: str) -> None:
        with server.postgres.superuser() as cursor:
            cursor.execute(f"ALTER ROLE {WORKER} PASSWORD %s", (password,))
            cursor.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", (WORKER,))

    set_password("renewed")
    try:
        yield
    finally:
        set_password(server.postgres.passwords.worker)


@pytest.mark.parametrize("end", [restart, crash])
def test_redis(
    end: Callable[[RedisServer], None],
    slow_mailbox: Proxy,
    mailbox: Mailbox,
    redis: RedisServer,
    worker: Worker,
    tasks_queue: Queue,
) -> None:
    account = register(mailbox)
    tasks_queue.sync(account)
    wait_until_it_is_in_the_middle()

    end(redis)

    wait_until_all_is_done()
    # and the worker goes on consuming
    mailbox.port = slow_mailbox.target[1]
    mailbox.append([message(MESSAGES + 1)])
    queue = Queue()
    wait_until(lambda: not column("SELECT lease_owner FROM email_client")[0], "the lease is not given back")
    assert queue.sync(account).get(timeout=60)["messages_synced"] == 1
    queue.close()


@pytest.mark.parametrize("end", [restart, crash])
def test_postgresql(
    end: Callable[[PostgresServer], None],
    slow_mailbox: Proxy,
    mailbox: Mailbox,
    postgres: PostgresServer,
    database: Database,
    environment: Callable[..., None],
    worker: Worker,
    tasks_queue: Queue,
) -> None:
    task = tasks_queue.sync(register(mailbox))
    wait_until_it_is_in_the_middle()

    end(postgres)
    environment()  # this process connects anew

    assert task.get(timeout=120)["status"] == "success"
    wait_until_all_is_done()


@pytest.mark.parametrize(
    ("task", "of_what"),
    [
        (SYNC_EMAILS, lambda account, message_id: (account, TENANT, USER)),
        (DELETE_EMAILS, lambda account, message_id: ([message_id], TENANT, USER)),
        (EMPTY_TRASH, lambda account, message_id: (account, TENANT, USER)),
        (ENFORCE_TRASH_RETENTION, lambda account, message_id: ()),
        (SEND_EMAIL, lambda account, message_id: (account, TENANT, USER, "bob@example.net")),
        (CHECK_SPAM, lambda account, message_id: (message_id, TENANT, USER)),
        (PERIODIC_SYNC, lambda account, message_id: ()),
        (CLEANUP_STALE_RESULTS, lambda account, message_id: ()),
    ],
)
def test_a_database_that_is_away_is_waited_for_and_wears_out_no_retries(
    task: str,
    of_what: Callable[[str, str], tuple[object, ...]],
    database: Database,
    mailbox: Mailbox,
    postgres: PostgresServer,
    redis: RedisServer,
    environment: Callable[..., None],
    smtp: SmtpServer,
    worker: Worker,
    tasks_queue: Queue,
) -> None:
    mailbox.append([message(1)])
    account = sending_account(mailbox, smtp)
    sync(account)
    [message_id] = column("SELECT id::text FROM email_message")
    postgres.stop()
    try:
        queued = tasks_queue.app.send_task(task, of_what(account.id, str(message_id)), queue="sync")
        wait_until(lambda: worker.log.read_text().count(f"[{queued.id}] retry") > 5, "it does not wait", 60)
        with broker(redis) as client:
            wait_until(lambda: client.hvals("unacked"), "it is not waiting")
            [waiting] = client.hvals("unacked")
        assert json.loads(waiting)[0]["headers"]["retries"] == 0
    finally:
        postgres.start()
        environment()  # this process connects anew

    assert queued.get(timeout=90)["status"] == "success"
    assert column("SELECT count(*) FROM dead_letter") == [0]


def test_a_worker_that_is_to_get_a_new_password_of_postgresql_waits_for_it(
    database: Database,
    mailbox: Mailbox,
    postgres: PostgresServer,
    worker: Worker,
    tasks_queue: Queue,
) -> None:
    account = register(mailbox)
    with renewed_password(postgres):
        queued = tasks_queue.sync(account)
        wait_until(lambda: worker.log.read_text().count(f"[{queued.id}] retry") > 5, "it does not wait", 60)

    assert queued.get(timeout=60)["status"] == "success"
    assert column("SELECT count(*) FROM dead_letter") == [0]
