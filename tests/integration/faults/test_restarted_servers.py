"""Redis and PostgreSQL restarted in the middle of a first sync: it finishes by itself, with each message once."""

from collections.abc import Callable, Iterator

import pytest

from native.dovecot import Dovecot
from native.postgres import PostgresServer
from native.redis import RedisServer
from tests.conftest import Database, register
from tests.integration.faults.conftest import Queue
from tests.support.mailbox import Mailbox, message
from tests.support.maildir import fill
from tests.support.proxy import Proxy
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
    assert queue.sync(account).get(timeout=20)["messages_synced"] == 1
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

    assert task.get(timeout=40)["status"] == "success"
    wait_until_all_is_done()
