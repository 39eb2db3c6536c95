"""A worker that is stopped: what it is at is handed on at once, and is lost as little as when it is killed."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from native.dovecot import Dovecot
from tests.conftest import register
from tests.integration.faults.conftest import Queue
from tests.support.mailbox import Mailbox, message
from tests.support.maildir import fill
from tests.support.proxy import Proxy
from tests.support.stored import assert_counts_agree, column, stored_uids
from tests.support.worker import Worker, wait_until

MESSAGES = 1000


@pytest.mark.parametrize("stops", [1, 5])
def test_a_stop_does_not_wait_for_the_sync_and_loses_nothing(
    stops: int,
    dovecot: Dovecot,
    mailbox: Mailbox,
    short_waits: None,
    environment: Callable[..., None],
    tasks_queue: Queue,
    tmp_path: Path,
) -> None:
    # Given a sync that needs a minute, and may take it
    environment(CELERY_TASK_SOFT_TIME_LIMIT="200", TASK_TIMEOUT="210", CELERY_VISIBILITY_TIMEOUT="212")
    fill(dovecot, mailbox, (message(n) for n in range(1, MESSAGES + 1)))
    with Proxy((mailbox.host, mailbox.port), rate=40_000) as proxy:
        mailbox.port = proxy.port
        task = tasks_queue.sync(register(mailbox))
        for _ in range(stops):
            before = count()
            worker = Worker(tmp_path)
            with worker:
                wait_until(lambda before=before: count() > before, "the sync does not move")

                # When its worker is told to stop, it does so within seconds, by itself
                os.kill(worker.pid, signal.SIGTERM)
                assert worker.wait(10) == 0
            assert count() < MESSAGES

        # Then another worker finishes it, under the same id
        proxy.rate = 10**8
        with Worker(tmp_path):
            result = task.get(timeout=180)
    assert result["status"] == "success"
    assert result["messages_synced"] == MESSAGES
    assert stored_uids() == list(range(1, MESSAGES + 1))
    assert_counts_agree()


def count() -> int:
    return len(column("SELECT id FROM email_message"))
