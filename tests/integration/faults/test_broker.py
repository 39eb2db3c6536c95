"""What is known to break between Celery and Redis, on a real worker and a real Redis that misbehaves."""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from native.dovecot import Dovecot
from tasks.runtime.publish import publish_many
from tests.conftest import TENANT, USER, Database, register
from tests.integration.faults.conftest import SHORT_WAITS, Queue, broker
from tests.integration.send.conftest import sending_account
from tests.support import fault_app
from tests.support.application import application
from tests.support.mailbox import Mailbox, message
from tests.support.maildir import fill
from tests.support.proxy import Proxy
from tests.support.servers import RedisServer
from tests.support.smtp_server import SmtpServer
from tests.support.stored import assert_counts_agree, rows, stored_uids
from tests.support.worker import Worker, wait_until

APP = "tests.support.fault_app:app"


@pytest.fixture
def marks(redis: RedisServer, database: Database, environment: Callable[..., None], tmp_path: Path) -> Iterator[Path]:
    """Where tasks leave their marks."""
    environment(REDIS_URL=redis.url, **SHORT_WAITS)
    folder = tmp_path / "marks"
    folder.mkdir()
    with application(fault_app):
        yield folder


def publish(marks: Path, numbers: range, **options: object) -> None:
    calls = [(TENANT, USER, str(marks), number) for number in numbers]
    publish_many(fault_app.count, calls, **{"queue": "sync", **options})


def done(marks: Path) -> Counter[int]:
    """How often each was done."""
    return Counter(int(path.name.split("-")[1]) for path in marks.glob("done-*"))


def test_a_worker_consumes_after_redis_restarted_five_times(redis: RedisServer, marks: Path, tmp_path: Path) -> None:
    """Celery 8030, 10205, 10302."""
    with Worker(tmp_path, 2, app=APP) as worker:
        for round_ in range(5):
            publish(marks, range(round_ * 40, round_ * 40 + 40))
            wait_until(lambda so_far=round_: len(done(marks)) > so_far * 40 + 5, "nothing is done")
            redis.restart()
        publish(marks, range(200, 220))

        wait_until(lambda: len(done(marks)) == 220, "some are not done", 120)
        assert set(done(marks).values()) == {1}
        assert psutil.Process(worker.pid).is_running()


@pytest.mark.parametrize("at_work", [False, True])
def test_a_worker_recovers_from_a_redis_that_was_read_only(
    at_work: bool, redis: RedisServer, marks: Path, tmp_path: Path, environment: Callable[..., None]
) -> None:
    """As after a failover, when it talks to what is a replica by now (Celery 6348, 7946).

    At work, what it notices first is that it cannot acknowledge what it has done.
    """
    environment(FAULT_VISIBILITY_TIMEOUT="5")
    with Worker(tmp_path, 1, app=APP) as worker, broker(redis) as client:
        publish(marks, range(5))
        wait_until(lambda: len(done(marks)) == 5, "the worker does not consume")
        wait_until(lambda: client.zcard("unacked_index") == 0, "they are not acknowledged")
        if at_work:
            args = (TENANT, USER, str(marks), "slow", "")
            fault_app.fault.apply_async(args, queue="sync", ignore_result=True)
            wait_until(lambda: fault_app.runs(marks) == 1, "it is not begun")
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        try:
            wait_until(lambda: "read only replica" in worker.log.read_text(), "it has not noticed", 60)
            time.sleep(3)
        finally:
            client.execute_command("REPLICAOF", "NO", "ONE")

        publish(marks, range(5, 10))

        wait_until(lambda: len(done(marks)) == 10, "it has not recovered", 60)
        if at_work:
            assert fault_app.runs(marks) == 1
        wait_until(lambda: client.zcard("unacked_index") == 0, "a delivery is left over", 40)
        assert psutil.pid_exists(worker.pid)


@pytest.mark.parametrize("has_own_results", [False, True])
def test_a_retry_that_a_full_redis_does_not_take_is_not_lost(
    has_own_results: bool,
    redis: RedisServer,
    marks: Path,
    tmp_path: Path,
    environment: Callable[..., None],
) -> None:
    """Celery throws its message away, or, where it cannot note that, waits for ever for a place for the next."""
    environment(SMTP_RETRIES="2", FAULT_VISIBILITY_TIMEOUT="5")
    with ExitStack() as servers, broker(redis) as client:
        if has_own_results:
            environment(CELERY_RESULT_BACKEND=servers.enter_context(RedisServer(tmp_path / "results")).url)
        smtp = servers.enter_context(SmtpServer())
        account = sending_account(Mailbox("127.0.0.1", 9, "ada", "x"), smtp)

        def fill_redis() -> str:
            client.config_set("maxmemory", "1")
            return "450 later"

        def send(subject: str) -> None:
            args = (account.id, TENANT, USER, ["bob@example.net"])
            words = {"subject": subject, "body_text": "Hello."}
            queue.app.send_task("email_service.tasks.send_email", args, words, queue="send")

        smtp.on("mail", fill_redis, times=2)  # a refused MAIL is tried on another connection first
        queue = Queue()
        with Worker(tmp_path, 1, app=APP) as worker:
            try:
                send("first")
                wait_until(lambda: "reject requeue" in worker.log.read_text(), "the retry is not refused")
                time.sleep(2)
            finally:
                client.config_set("maxmemory", "0")
            send("second")
            wait_until(lambda: sorted(smtp.taken()) == ["first", "second"], "one is lost", 40)
            wait_until(lambda: client.zcard("unacked_index") == 0, "a delivery is left over", 40)
        queue.close()
    assert rows("SELECT state FROM outbox_message") == [("sent",), ("sent",)]


def test_a_flood_of_countdowns_does_not_fill_the_workers_memory(
    redis: RedisServer, marks: Path, tmp_path: Path, environment: Callable[..., None]
) -> None:
    """Celery 9849."""
    environment(CELERY_WORKER_ETA_TASK_LIMIT="500", FAULT_VISIBILITY_TIMEOUT="1000")
    with Worker(tmp_path, 1, app=APP) as worker, broker(redis) as client:
        before = psutil.Process(worker.pid).memory_info().rss
        publish(marks, range(5000), countdown=500)
        wait_until(lambda: client.zcard("unacked_index") >= 500, "it does not take them")
        time.sleep(5)

        assert client.zcard("unacked_index") <= 510
        assert psutil.Process(worker.pid).memory_info().rss - before < 20_000_000
        assert client.llen("sync") > 4000


def test_no_task_is_lost_through_fifty_restarts(redis: RedisServer, marks: Path, tmp_path: Path) -> None:
    """Five workers, each stopped by SIGTERM with tasks at work and started again, ten times (Celery 4354, 7950)."""
    workers = []
    for number in range(5):
        (tmp_path / str(number)).mkdir()
        workers.append(Worker(tmp_path / str(number), 2, app=APP))
    with ExitStack() as ended:
        for worker in workers:
            ended.push(worker)
        for published in range(100, 1100, 100):
            for worker in workers:
                worker.start(wait=False)
            publish(marks, range(published - 100, published))
            wait_until(lambda so_far=published: len(done(marks)) > so_far - 90, "nothing is done", 60)
            for worker in workers:
                psutil.Process(worker.pid).send_signal(signal.SIGTERM)
            for worker in workers:
                worker.wait(60)
        workers[0].start()
        wait_until(lambda: len(done(marks)) == 1000, "some are lost", 90)
    # A worker that stops as it starts may give a task back that it has just done.
    assert sum(done(marks).values()) <= 1010


def test_queues_are_served_by_their_weights(redis: RedisServer, marks: Path, tmp_path: Path) -> None:
    """The highest first and most, the lowest not starved (Celery 4028, 8967)."""
    starts = {"spam": 0, "delete": 1000, "send": 2000, "sync": 3000}
    for queue, first in starts.items():
        publish(marks, range(first, first + 150), queue=queue)
    with Worker(tmp_path, 1, app=APP):
        wait_until(lambda: len(done(marks)) >= 130, "nothing is done", 60)
    order = [p.name.split("-") for p in marks.glob("done-*")]
    first = [int(number) // 1000 for _, number, _ in sorted(order, key=lambda mark: int(mark[2]))[:130]]
    spam, delete, send, sync = (first.count(queue) for queue in range(4))

    # Of 26 turns 10, 8, 5 and 3.
    assert (sync, send, delete, spam) == pytest.approx((50, 40, 25, 15), abs=4)


def test_a_task_longer_than_the_visibility_timeout_has_one_effect(
    redis: RedisServer,
    dovecot: Dovecot,
    mailbox: Mailbox,
    marks: Path,
    tmp_path: Path,
    environment: Callable[..., None],
) -> None:
    """Delivered again while it is still at work (Celery 5935, 3270, 2599): a sync of 30 s, and a timeout of 10 s."""
    environment(TASK_TIMEOUT="90", CELERY_TASK_SOFT_TIME_LIMIT="80", CELERY_VISIBILITY_TIMEOUT="200")
    environment(FAULT_VISIBILITY_TIMEOUT="10")
    everything = list(range(1, 401))
    fill(dovecot, mailbox, map(message, everything))
    queue = Queue()
    with Proxy((mailbox.host, mailbox.port), rate=10**8) as proxy:
        mailbox.port = proxy.port
        account = register(mailbox)
        size = sum(len(message(number)) for number in everything)
        proxy.rate = size // 30
        with Worker(tmp_path, 2, app=APP) as worker:
            started = time.monotonic()
            task = queue.sync(account)
            result = task.get(timeout=80)
            assert time.monotonic() - started > 20, "the sync was too quick for this test"
            wait_until(lambda: f"[{task.id}] retry" in worker.log.read_text(), "it was not delivered again")
            with broker(redis) as client:
                wait_until(lambda: client.zcard("unacked_index") == 0, "a delivery is left over", 40)
    queue.close()
    assert result["messages_synced"] == len(everything)
    assert stored_uids() == everything
    assert_counts_agree()


def test_children_do_not_share_a_connection_made_before_the_fork(database: Database, environment: object) -> None:
    """Celery 1564, 3238. Over TLS two users of one connection would break it for each other."""
    from tasks.storage.session import get_engine, unbound_transaction

    def backend() -> int:
        with unbound_transaction() as connection:
            return int(connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())

    own = backend()
    children = []
    for _ in range(3):
        reader, writer = os.pipe()
        pid = os.fork()
        if not pid:
            os.write(writer, b" ".join(str(backend()).encode() for _ in range(20)))
            os._exit(0)
        os.close(writer)
        children.append((pid, reader))
    seen = []
    for pid, reader in children:
        with os.fdopen(reader) as output:
            seen.append(set(map(int, output.read().split())))
        assert os.waitpid(pid, 0)[1] == 0
    assert all(len(pids) == 1 for pids in seen)
    assert len({own, *(pid for [pid] in seen)}) == 4
    # and the parent's is as good as before
    assert backend() == own
    assert get_engine().pool.checkedin() == 1
