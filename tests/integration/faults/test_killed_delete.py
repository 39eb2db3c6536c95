"""kill -9 while a worker deletes: the same task comes to the end, and each message is in Trash once.

The mailbox is on a real Dovecot behind a slow connection, so that each kill hits a task that is at work.
"""

import random
import time

import pytest

from native.dovecot import Dovecot
from tests.conftest import TENANT, USER, Database, register, sync
from tests.integration.faults.conftest import Queue
from tests.support.mailbox import Mailbox, message
from tests.support.maildir import fill
from tests.support.proxy import Proxy
from tests.support.stored import assert_counts_agree, column, stored_uids
from tests.support.worker import Worker, wait_until

MESSAGES = 300
KILLS = 4
MAX_LIFE_SECONDS = 0.6


@pytest.mark.parametrize("permanent", [False, True], ids=["into Trash", "for good"])
def test_a_delete_is_killed_again_and_again(
    database: Database,
    dovecot: Dovecot,
    mailbox: Mailbox,
    worker: Worker,
    tasks_queue: Queue,
    permanent: bool,
) -> None:
    fill(dovecot, mailbox, (message(n) for n in range(1, MESSAGES + 1)))
    mailbox.create("Trash")
    account = register(mailbox)
    sync(account)
    ids = column("SELECT id FROM email_message")
    seed = random.randrange(2**32)
    print(f"the moments of this test come from random.Random({seed})")
    moments = random.Random(seed)
    with Proxy((mailbox.host, mailbox.port), rate=700) as slow:
        move_account_to(slow.port)
        task = tasks_queue.app.send_task(
            "email_service.tasks.delete_emails", (ids, TENANT, USER, permanent), queue="delete"
        )
        seen: object = None
        for number in range(KILLS):
            wait_until(lambda seen=seen: owner() not in ([], seen), f"run number {number + 1} does not start")
            time.sleep(moments.uniform(0, MAX_LIFE_SECONDS))
            seen = owner()
            assert seen, f"it was done after {number} kills; the connection is not slow enough"
            worker.kill_child()
        slow.rate = 10**8

        assert task.get(timeout=90) == {"status": "success", "deleted_count": MESSAGES, "marked_count": 0}

    assert mailbox.uids() == []
    assert len(mailbox.uids("Trash")) == (0 if permanent else MESSAGES)
    move_account_to(mailbox.port)
    assert sync(account).total("deleted") == 0
    assert stored_uids("Trash") == mailbox.uids("Trash")
    assert len(set(column("SELECT message_id FROM email_message"))) == (0 if permanent else MESSAGES)
    assert_counts_agree()


def owner() -> object:
    return column("SELECT lease_owner FROM email_client WHERE lease_until > clock_timestamp()")


def move_account_to(port: int) -> None:
    column("WITH moved AS (UPDATE email_client SET port = :port RETURNING id) SELECT id FROM moved", port=port)
