"""The connection to PostgreSQL is lost in the middle of each COMMIT in turn, as in a failover. What is then tried
again is neither lost nor done twice, whether PostgreSQL has committed or not."""

import itertools
import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import psycopg2
import pytest
import redis as redis_client

from native.postgres import libpq
from tasks.engine.delete.messages import DeleteRequest, delete_messages
from tasks.errors import TransientError
from tasks.runtime.notified.queued_tasks import publish_queued
from tasks.storage.queued_tasks import list_queued_tasks
from tests.conftest import TENANT, USER, Database, register, sync
from tests.integration.send.conftest import Send, pools, send_once, sending_account
from tests.support.application import application
from tests.support.doubt import CommitsInDoubt
from tests.support.mailbox import Mailbox, message
from tests.support.servers import RedisServer
from tests.support.smtp_server import SmtpServer
from tests.support.stored import assert_counts_agree, rows
from tests.support.told import Witness, told

__all__ = ["pools", "send_once"]


@pytest.fixture
def doubt(database: Database, environment: Callable[..., None]) -> Iterator[CommitsInDoubt]:
    """On the way to PostgreSQL."""
    port = database.server.port
    with CommitsInDoubt(("127.0.0.1", port)) as doubt:
        environment(DATABASE_URL=database.worker_url.replace(f":{port}/", f":{doubt.port}/"), SYNC_BATCH_SIZE="2")
        yield doubt
        environment(DATABASE_URL=database.worker_url)


def each_commit(doubt: CommitsInDoubt, prepare: Callable[[int], Callable[[], object]]) -> int:
    """Lose the first COMMIT of what `prepare` returns, then the second of another one, and so on; each in both ways.
    Returns how often. `prepare` gets a number; the result is run again after each error, as a worker does it."""
    for times in itertools.count():
        run = prepare(times)
        doubt.lose(1 + times // 2, is_done=bool(times % 2))
        until_done(run)
        if not doubt.has_lost:
            doubt.lose(0, is_done=False)
            assert times > 1  # else none was lost
            return times + 1
    raise AssertionError


def until_done(run: Callable[[], object]) -> None:
    """Run it again after each error that passes."""
    for _ in range(10):
        try:
            run()
            return
        except TransientError as error:
            time.sleep(min(getattr(error, "seconds_left", 0.1), 1))
    raise AssertionError("it is never done")


def test_mail_is_sent_once_and_its_copy_filed_once(doubt: CommitsInDoubt, mailbox: Mailbox, send_once: Send) -> None:
    mailbox.create("Sent")
    with SmtpServer() as smtp:
        account = sending_account(mailbox, smtp, sent_copies="auto")
        sync(account)
        times = each_commit(doubt, lambda n: lambda: send_once(account, f"mail {n}", to=[f"{n}@example.net"]))
        found = rows("SELECT recipients->0->>'address', state FROM outbox_message")
        assert sorted(found) == sorted((f"{number}@example.net", "sent") for number in range(times))
        assert sorted(smtp.taken()) == sorted(f"mail {number}" for number in range(times))
    outcomes = [event.data["outbox_id"] for event in told("message.sent")]
    assert len(outcomes) == len(set(outcomes)) == times
    until_done(lambda: sync(account))
    assert len(mailbox.uids("Sent")) == times
    assert rows("SELECT count(*), count(DISTINCT subject) FROM email_message") == [(times, times)]
    assert_counts_agree()


def test_messages_are_stored_once(doubt: CommitsInDoubt, mailbox: Mailbox) -> None:
    account = register(mailbox)
    sync(account)

    def more(number: int) -> Callable[[], object]:
        mailbox.append(message(10 * number + n) for n in range(3))
        mailbox.flag(str(1 + number), r"\Flagged")
        return lambda: sync(account)

    times = each_commit(doubt, more)
    assert rows("SELECT count(*), count(DISTINCT imap_uid) FROM email_message") == [(3 * times, 3 * times)]
    assert rows("SELECT count(*) FROM email_message WHERE is_starred") == [(times,)]
    assert_counts_agree()
    created = [event.data["email_message_id"] for event in told("message.created")]
    assert len(created) == len(set(created)) == 3 * times


def test_messages_are_deleted_once(doubt: CommitsInDoubt, mailbox: Mailbox) -> None:
    account = register(mailbox)
    mailbox.append(message(n) for n in range(100))
    sync(account)
    ids = [id_ for (id_,) in rows("SELECT id FROM email_message ORDER BY imap_uid")]
    witness = Witness()

    def delete(number: int) -> Callable[[], object]:
        request = DeleteRequest(TENANT, USER, ids[3 * number : 3 * number + 3], permanent=bool(number % 3))
        return lambda: delete_messages(request, f"delete {number}", f"key {number}", 600, lambda _: None)

    times = each_commit(doubt, delete)
    witness.check()
    tally = sync(account)
    assert (tally.total("synced"), tally.total("deleted")) == (0, 0)
    assert len(mailbox.uids("INBOX")) == 100 - 3 * times
    assert_counts_agree()


def test_tasks_queued_in_sql_are_published_once(
    doubt: CommitsInDoubt, database: Database, redis: RedisServer, environment: Callable[..., None]
) -> None:
    environment(REDIS_URL=redis.url)
    queued: list[str] = []
    arguments = json.dumps({"email_id": "message", "user_id": USER})
    with closing(psycopg2.connect(libpq(database.app_url))) as connection, application() as app:

        def queue_two(_: int) -> Callable[[], object]:
            with connection, connection.cursor() as cursor:
                cursor.execute("SELECT set_config('metabuilder.tenant_id', %s, true)", (TENANT,))
                for _ in range(2):
                    cursor.execute("SELECT queue_task('check_spam', %s)", (arguments,))
                    queued.append(cursor.fetchone()[0])
            return lambda: publish_queued(app)

        each_commit(doubt, queue_two)
        until_done(lambda: publish_queued(app))
    with redis_client.Redis(port=redis.port, password=redis.password, decode_responses=True) as client:
        published = [json.loads(raw)["headers"]["id"] for raw in client.lrange("spam", 0, -1)]
    assert sorted(published) == sorted(queued)
    assert list_queued_tasks(10) == []
