"""A first sync longer than a task may run: it is handed on under the same id until all is there."""

from collections.abc import Callable
from pathlib import Path

from native.dovecot import Dovecot
from tests.conftest import register
from tests.integration.faults.conftest import Queue, broker
from tests.support.mailbox import Mailbox, message
from tests.support.maildir import fill
from tests.support.proxy import Proxy
from tests.support.servers import RedisServer
from tests.support.stored import assert_counts_agree, quarantine, stored_uids
from tests.support.worker import Worker, wait_until

MESSAGES = 3000


def test_a_long_sync_finishes_under_one_id_and_never_expires(
    dovecot: Dovecot,
    mailbox: Mailbox,
    short_waits: None,
    environment: Callable[..., None],
    tasks_queue: Queue,
    tmp_path: Path,
) -> None:
    # Given 3,000 messages behind a slow connection, and a task that may work for about a second
    environment(SYNC_BATCH_SIZE="100", CELERY_TASK_SOFT_TIME_LIMIT="2", TASK_TIMEOUT="10")
    fill(dovecot, mailbox, (message(n) for n in range(1, MESSAGES + 1)))
    with Proxy((mailbox.host, mailbox.port), rate=500_000) as proxy, Worker(tmp_path) as worker:
        mailbox.port = proxy.port

        # When it is queued for a start within two seconds, as the schedule queues it
        task = tasks_queue.sync(register(mailbox), expires=2)
        result = task.get(timeout=180)

        # Then the one who waits for its id gets the result of the whole
        assert result["status"] == "success"
        assert result["messages_synced"] == MESSAGES
        assert result["sync_duration_seconds"] > 2
        assert worker.log.read_text().count(f"[{task.id}] received") >= 3
    assert stored_uids() == list(range(1, MESSAGES + 1))
    assert_counts_agree()


def test_a_hand_on_that_a_full_redis_does_not_take_is_not_lost(
    dovecot: Dovecot,
    mailbox: Mailbox,
    redis: RedisServer,
    short_waits: None,
    environment: Callable[..., None],
    tasks_queue: Queue,
    tmp_path: Path,
) -> None:
    environment(SYNC_BATCH_SIZE="100", CELERY_TASK_SOFT_TIME_LIMIT="3", TASK_TIMEOUT="10", TASK_MAX_REDELIVERIES="2")
    fill(dovecot, mailbox, (message(n) for n in range(1, MESSAGES + 1)))
    with Proxy((mailbox.host, mailbox.port), rate=500_000) as proxy, Worker(tmp_path) as worker:
        mailbox.port = proxy.port
        task = tasks_queue.sync(register(mailbox))
        with broker(redis) as client:
            wait_until(stored_uids, "nothing is stored")
            try:
                client.config_set("maxmemory", "1")
                wait_until(lambda: "reject requeue=True" in worker.log.read_text(), "the hand-on is not refused")
            finally:
                client.config_set("maxmemory", "0")

            assert task.get(timeout=180)["status"] == "success"
            wait_until(lambda: client.zcard("unacked_index") == 0, "a delivery is left over")
    assert stored_uids() == list(range(1, MESSAGES + 1))
    assert_counts_agree()


def test_a_message_longer_than_a_task_may_take_is_set_aside_and_the_others_come(
    mailbox: Mailbox,
    short_waits: None,
    environment: Callable[..., None],
    tasks_queue: Queue,
    tmp_path: Path,
) -> None:
    # Given a message that takes ten seconds, among small ones, and a task that may work for four
    environment(CELERY_TASK_SOFT_TIME_LIMIT="4", TASK_TIMEOUT="10")
    mailbox.append([message(1), message(2, body=("x" * 70 + "\n") * 30_000), message(3), message(4)])
    with Proxy((mailbox.host, mailbox.port), rate=200_000) as proxy, Worker(tmp_path) as worker:
        mailbox.port = proxy.port

        task = tasks_queue.sync(register(mailbox))
        result = task.get(timeout=90)

        # Then it was tried three times, and not for ever
        assert worker.log.read_text().count("sync interrupted: The time of a task was used up") >= 3
    assert (result["status"], result["messages_synced"], result["messages_quarantined"]) == ("success", 3, 1)
    assert stored_uids() == [1, 3, 4]
    assert quarantine() == {2: "undeliverable"}
    assert_counts_agree()
