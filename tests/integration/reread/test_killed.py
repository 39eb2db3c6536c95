"""kill -9 while messages are read again: each is as it was or as it is to be, and in the end all are read."""

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from native.dovecot import Dovecot
from tasks.registry import REREAD_MESSAGES
from tasks.storage.accounts.rows import Account
from tests.conftest import Database, register, sync
from tests.integration.faults.conftest import SHORT_WAITS, Queue
from tests.integration.reread.conftest import DERIVED, KEPT, as_owner, ask, outcomes, table
from tests.integration.reread.test_reread import attachments, with_files
from tests.support.mailbox import Mailbox, message
from tests.support.maildir import fill
from tests.support.proxy import Proxy
from tests.support.servers import RedisServer
from tests.support.stored import assert_counts_agree, column, rows
from tests.support.worker import Worker, wait_until

MESSAGES = 400
KILLS = 6
MAX_LIFE_SECONDS = 2.0
# A batch takes about half a second.
BYTES_PER_SECOND = 40_000

# Neither wholly as it was misread nor wholly as it is to be.
HALF = """
    SELECT message.id FROM email_message AS message
    LEFT JOIN email_attachment AS file ON file.email_message_id = message.id
    LEFT JOIN rereading ON rereading.email_message_id = message.id
    GROUP BY message.tenant_id, message.id, rereading.email_message_id
    HAVING (message.parser_version = 1) <> (message.subject = 'Ã¤')
        OR (message.parser_version = 1) <> (min(file.filename) = 'misread')
        OR (message.parser_version = 1) <> (rereading.email_message_id IS NOT NULL)
        OR (message.parser_version = 1) <> (message.attachment_count <> count(file.id))
    """


@pytest.fixture
def queue(redis: RedisServer, database: Database, environment: Callable[..., None]) -> Iterator[Queue]:
    environment(REDIS_URL=redis.url, **SHORT_WAITS)
    queue = Queue()
    yield queue
    queue.close()


def misread_all(account: Account, database: Database, misread: Callable[..., None]) -> None:
    misread()
    as_owner(database, "UPDATE email_attachment SET filename = 'misread'")
    assert ask(account).messages == len(column("SELECT id FROM email_message"))
    assert rows(HALF) == []


@pytest.mark.parametrize("protocol", ["imap", "pop3"])
def test_the_child_is_killed_at_random_moments(
    dovecot: Dovecot, mailbox: Mailbox, database: Database, misread: Callable[..., None], queue: Queue,
    tmp_path: Path, protocol: str,
) -> None:  # fmt: skip
    seed = random.randrange(2**32)
    print(f"the moments of this test come from random.Random({seed})")
    moments = random.Random(seed)
    fill(dovecot, mailbox, (with_files(n, a=b"a%d" % n, b=b"b") for n in range(1, MESSAGES + 1)))
    port = mailbox.port if protocol == "imap" else dovecot.pop3_port
    with Proxy((mailbox.host, port), 10**8) as proxy:
        account = register(mailbox, protocol=protocol, port=proxy.port)
        sync(account)
        right, kept, files = table(DERIVED), table(KEPT), attachments()
        misread_all(account, database, misread)
        proxy.rate = BYTES_PER_SECOND

        with Worker(tmp_path) as worker:
            args = (account.id, account.tenant_id, account.user_id)
            queue.app.send_task(REREAD_MESSAGES, args, queue="reread")
            seen: object = None
            for number in range(KILLS):
                wait_until(
                    lambda seen=seen: column("SELECT lease_owner FROM email_client") not in ([None], seen),
                    f"run number {number + 1} does not start",
                )
                time.sleep(moments.uniform(0, MAX_LIFE_SECONDS))
                seen = column("SELECT lease_owner FROM email_client")
                worker.kill_child()
                assert rows(HALF) == []
            assert outcomes(), "all was done before the last kill: the connection is not slow enough"
            proxy.rate = 10**8
            # Then the same task comes to the end by itself
            wait_until(lambda: not outcomes(), "it does not go on", 60)

    assert table(DERIVED) == right
    assert table(KEPT) == kept
    assert attachments() == files
    assert_counts_agree()


def test_a_message_that_kills_the_worker_stays_as_it_is(
    mailbox: Mailbox, database: Database, misread: Callable[..., None], queue: Queue, tmp_path: Path
) -> None:
    mailbox.append([message(1), message(2, subject="deadly"), message(3)])
    account = register(mailbox)
    sync(account)
    misread()
    ask(account)
    with Worker(tmp_path, app="tests.support.deadly_app:app"):
        queue.app.send_task(REREAD_MESSAGES, (account.id, account.tenant_id, account.user_id), queue="reread")
        wait_until(lambda: list(outcomes().values()) == ["unreadable"], "the others are not read again", 60)
    assert rows("SELECT imap_uid, subject FROM email_message ORDER BY 1") == [
        (1, "Message 1"),
        (2, "Ã¤"),
        (3, "Message 3"),
    ]
