"""kill -9 at random moments of a first sync: in the end exactly the server's messages, each once.

The mailbox is on a real Dovecot behind a slow connection, so that each of the ten kills hits a sync that is running.
"""

import random
import time
from collections.abc import Callable, Iterator

import pytest

from native.dovecot import Dovecot
from tests.conftest import Database, register
from tests.integration.faults.conftest import Queue, broker
from tests.support.mailbox import Mailbox, message
from tests.support.maildir import fill
from tests.support.proxy import Proxy
from tests.support.servers import RedisServer
from tests.support.stored import assert_counts_agree, column, quarantine, rows, stored_uids
from tests.support.told import Witness, told
from tests.support.worker import Worker, wait_until

# So many that they are parsed in a process of their own.
MESSAGES = 2500
KILLS = 10
MAX_LIFE_SECONDS = 0.8
# Too slow for ten of the longest lives, and the moments in which a kill is noticed, to bring all messages.
BYTES_PER_SECOND = 45_000


@pytest.fixture
def slow_mailbox(dovecot: Dovecot, mailbox: Mailbox, database: Database) -> Iterator[Proxy]:
    fill(dovecot, mailbox, (message(n) for n in range(1, MESSAGES + 1)))
    with Proxy((mailbox.host, mailbox.port), BYTES_PER_SECOND) as proxy:
        mailbox.port = proxy.port
        yield proxy


@pytest.fixture
def moments() -> random.Random:
    seed = random.randrange(2**32)
    print(f"the moments of this test come from random.Random({seed})")
    return random.Random(seed)


def lease_owner() -> object:
    return column("SELECT lease_owner FROM email_client WHERE lease_until > clock_timestamp()")


def kill_at_random_moments(moments: random.Random, kill: Callable[[], None]) -> None:
    seen: object = None
    for number in range(KILLS):
        wait_until(lambda seen=seen: lease_owner() not in ([], seen), f"sync number {number + 1} does not start")
        time.sleep(moments.uniform(0, MAX_LIFE_SECONDS))
        seen = lease_owner()
        assert seen, f"the sync was done after {number} kills; the connection is not slow enough"
        kill()


def assert_each_message_is_there_once() -> None:
    assert stored_uids() == list(range(1, MESSAGES + 1))
    assert len(set(column("SELECT message_id FROM email_message"))) == MESSAGES
    assert quarantine() == {}
    assert_counts_agree()


def test_the_child_is_killed_ten_times(
    slow_mailbox: Proxy, mailbox: Mailbox, worker: Worker, tasks_queue: Queue, moments: random.Random
) -> None:
    account = register(mailbox)
    # As if it had been synced before, so that each message is told of.
    rows("UPDATE email_client SET last_sync_at = now() RETURNING 1")
    witness = Witness()
    task = tasks_queue.sync(account)

    kill_at_random_moments(moments, worker.kill_child)
    slow_mailbox.rate = 10**8

    # Then the same task finishes by itself
    assert task.get(timeout=180)["status"] == "success"
    assert_each_message_is_there_once()
    witness.check()
    assert len(told("message.created")) == MESSAGES


def test_the_process_that_parses_is_killed(
    slow_mailbox: Proxy, mailbox: Mailbox, worker: Worker, tasks_queue: Queue
) -> None:
    task = tasks_queue.sync(register(mailbox))

    wait_until(worker.parsers, "no process parses")
    (parser,) = worker.parsers()
    slow_mailbox.rate = 10**8
    wait_until(stored_uids, "nothing is stored")
    parser.kill()

    assert task.get(timeout=180)["status"] == "success"
    assert_each_message_is_there_once()


def test_the_child_is_killed_ten_times_in_a_sync_by_pop3(
    dovecot: Dovecot,
    slow_mailbox: Proxy,
    mailbox: Mailbox,
    worker: Worker,
    tasks_queue: Queue,
    moments: random.Random,
) -> None:
    slow_mailbox.target = (mailbox.host, dovecot.pop3_port)
    task = tasks_queue.sync(register(mailbox, protocol="pop3"))

    kill_at_random_moments(moments, worker.kill_child)
    slow_mailbox.rate = 10**8

    assert task.get(timeout=180)["status"] == "success"
    assert len(set(column("SELECT message_id FROM email_message"))) == MESSAGES
    assert column("SELECT count(*) FROM email_message") == [MESSAGES]
    assert [(event.type, event.data["messages"]) for event in told()] == [("account.synced", MESSAGES)]
    assert quarantine() == {}
    assert_counts_agree()


def test_the_whole_worker_is_killed_and_started_again_ten_times(
    slow_mailbox: Proxy,
    mailbox: Mailbox,
    worker: Worker,
    tasks_queue: Queue,
    redis: RedisServer,
    moments: random.Random,
) -> None:
    task = tasks_queue.sync(register(mailbox))

    def kill_and_start_again() -> None:
        worker.kill()
        # As if the visibility timeout had passed: then a worker that starts gets what its predecessor had.
        with broker(redis) as client:
            assert client.zcard("unacked_index") == 1
            client.zadd("unacked_index", dict.fromkeys(client.zrange("unacked_index", 0, -1), 1.0), xx=True)
        worker.start(wait=False)

    kill_at_random_moments(moments, kill_and_start_again)
    slow_mailbox.rate = 10**8

    assert task.get(timeout=180)["status"] == "success"
    assert_each_message_is_there_once()
