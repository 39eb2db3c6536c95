"""A Redis whose master changes: clients ask its Sentinels, and go on at the new master."""

import asyncio
import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

import flower.utils.broker
import psycopg2
import pytest
import redis
from celery.exceptions import TimeoutError as NoResultError
from kombu.exceptions import OperationalError
from redis.exceptions import ConnectionError as RedisConnectionError

from native.postgres import libpq
from native.process import Server
from tasks.errors import BrokerUnavailableError
from tasks.monitoring import flower_broker
from tasks.monitoring.report import WORKERS
from tasks.registry import SEND_EMAIL
from tasks.runtime.broker import failover, scripts
from tasks.runtime.broker.master import MasterLostError, client_of, find_master
from tasks.runtime.notified.queued_tasks import publish_queued
from tasks.runtime.publish import publish_many
from tasks.runtime.scheduler import TICKED
from tasks.settings import load
from tasks.storage.queued_tasks import list_queued_tasks
from tests.conftest import TENANT, USER, Database
from tests.integration.faults.conftest import APP, SHORT_WAITS, publish
from tests.integration.send.conftest import sending_account
from tests.support import fault_app
from tests.support.application import application
from tests.support.mailbox import Mailbox
from tests.support.programs import Program, start
from tests.support.sentinels import NEVER_SECONDS, Member, RedisSite
from tests.support.smtp_server import SmtpServer
from tests.support.worker import Worker, wait_until


@pytest.fixture
def site(tmp_path: Path, environment: Callable[..., None]) -> Iterator[RedisSite]:
    with RedisSite(tmp_path / "site") as site:
        environment(**site.variables, **SHORT_WAITS)
        yield site


@pytest.fixture
def settled_site(tmp_path: Path, environment: Callable[..., None]) -> Iterator[RedisSite]:
    """One whose Sentinels replace no master by themselves."""
    with RedisSite(tmp_path / "site", down_after_seconds=NEVER_SECONDS) as site:
        environment(**site.variables, **SHORT_WAITS)
        yield site


@pytest.fixture
def marks(database: Database, tmp_path: Path) -> Iterator[Path]:
    """Where tasks leave their marks."""
    folder = tmp_path / "marks"
    folder.mkdir()
    with application(fault_app):
        yield folder


def start_beat(log: Path) -> Program:
    arguments = ("-A", "tests.support.beat_app:app", "beat", "--pidfile=", "-l", "INFO")
    return start("celery", arguments, log)


@contextmanager
def ended(program: Program) -> Iterator[None]:
    try:
        yield
    finally:
        program.kill()
        program.wait()


@contextmanager
def planned(site: RedisSite) -> Iterator[None]:
    site.fail_over()
    yield


@contextmanager
def freeze(site: RedisSite) -> Iterator[None]:
    old = site.master
    with frozen(old):
        yield


@contextmanager
def kill(site: RedisSite) -> Iterator[None]:
    site.master.kill()
    yield


@contextmanager
def frozen(*servers: Server) -> Iterator[None]:
    """These servers keep their connections and answer nothing."""
    pids = [server.pid for server in servers]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def test_a_sentinel_that_does_not_answer_is_passed_over(settled_site: RedisSite) -> None:
    site = settled_site
    broker = load().redis.broker
    sentinels = broker.sentinels
    assert sentinels
    first, second, third = site.sentinels
    with site.master.client() as client:
        client.lpush("sync", "a", "b")
    flower_broker.follow(flower.utils.broker)
    lengths = flower.utils.broker.Broker(broker.url).queues(["sync"])
    assert asyncio.run(lengths) == [{"name": "sync", "messages": 2}]

    with frozen(first):
        address, by = find_master(sentinels)
        assert (address[1], by[1]) == (site.members[0].port, second.port)
    second.kill()
    with frozen(first):
        assert find_master(sentinels)[1][1] == third.port
        third.kill()
        with pytest.raises(RedisConnectionError, match="no Sentinel knows where the master broker is"):
            find_master(sentinels)
    with pytest.raises(RedisConnectionError, match=r"No such master"):
        find_master(sentinels._replace(master_name="another"))


def test_a_client_goes_on_at_the_new_master_and_verifies_it_by_name(
    tmp_path: Path, environment: Callable[..., None]
) -> None:
    with RedisSite(tmp_path / "site", tls=True, down_after_seconds=NEVER_SECONDS) as site:
        environment(**site.variables)
        place = load().redis.broker
        with client_of(place, socket_timeout=5) as client:
            first = site.master
            client.set("kept", "yes")
            site.wait_until_replicated()
            site.fail_over()

            # The connection was closed by the server that was demoted; the next one leads to the new master.
            wait_until(lambda: succeeds(client), "the new master is not found")
            assert client.get("kept") == b"yes"
            assert client.info("replication")["role"] == "master"
            assert client.info("server")["tcp_port"] != first.port

        # A name that the certificate is not for is refused, at the Sentinels and at Redis.
        by_address = tuple(("127.0.0.1", port) for _, port in place.sentinels.addresses)
        with pytest.raises(RedisConnectionError, match="certificate verify failed"):
            find_master(place.sentinels._replace(addresses=by_address))
        for sentinel in site.sentinels:
            with sentinel.client() as asked:
                asked.execute_command("SENTINEL", "CONFIG", "SET", "announce-hostnames", "no")
        with client_of(place) as client, pytest.raises(RedisConnectionError, match="certificate verify failed"):
            client.ping()


def succeeds(client: redis.Redis) -> bool:
    try:
        return bool(client.set("metabuilder:test", 1))
    except redis.ConnectionError:
        return False


def test_a_demoted_master_that_takes_connections_is_left(settled_site: RedisSite) -> None:
    """The Sentinels still name it, as one does that is cut off from the others."""
    demoted, other = settled_site.master, settled_site.replicas[0]
    with client_of(load().redis.broker, socket_timeout=5) as client, demoted.client() as direct:
        client.set("a", 1)
        direct.execute_command("REPLICAOF", "127.0.0.1", str(other.port))

        # What it refuses ends the connection, and a new one is not used, not even to read.
        with pytest.raises(MasterLostError, match="read only replica"):
            client.set("a", 2)
        with pytest.raises(MasterLostError, match=f"{demoted.port} is no master but a "):
            client.get("a")

        direct.execute_command("REPLICAOF", "NO", "ONE")
        wait_until(lambda: succeeds(client), "the master is not found")


def test_a_worker_and_beat_go_on_at_the_new_master_whatever_became_of_the_old_one(
    site: RedisSite,
    marks: Path,
    tmp_path: Path,
    environment: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Switched as planned, then frozen with its connections open, then killed."""
    monkeypatch.setattr(failover, "PATIENCE_SECONDS", 300)
    # Tasks are at work while the master changes; a lost acknowledgement is made good after the last of these times.
    environment(TASK_TIMEOUT="60", CELERY_TASK_SOFT_TIME_LIMIT="55", CELERY_VISIBILITY_TIMEOUT="62")
    environment(BEAT_TEST_SECONDS="1")
    beat_log = tmp_path / "beat.log"
    with Worker(tmp_path, 2, app=APP) as worker, ended(start_beat(beat_log)):
        numbers = iter(range(1000))
        for fault in (planned, freeze, kill):
            held, begun = fault_app.hold(marks), fault_app.begun(marks)
            before = [next(numbers) for _ in range(5)]
            publish(marks, before)
            wait_until(lambda begun=begun: fault_app.begun(marks) >= begun + 2, "nothing is at work")
            site.wait_until_replicated()
            with fault(site):
                # While tasks are at work, others wait in the queue, and others are being published.
                after = [next(numbers) for _ in range(5)]
                publish(marks, after)
                held.unlink()
                wanted = {*before, *after}
                wait_until(lambda wanted=wanted: wanted <= {*fault_app.done(marks)}, f"not all is done: {fault}", 60)
                # The states of tasks that ended meanwhile may be lost, and for 15 s those of a process that lost one.
                wait_until(lambda: returns(marks, next(numbers)), "no result is stored", 60)
                with site.master.client() as client:
                    wait_until(lambda client=client: client.exists(WORKERS), "the worker does not report")
                    ticked = client.get(TICKED)
                    wait_until(
                        lambda client=client, ticked=ticked: client.get(TICKED) not in (None, ticked),
                        "beat does not keep the schedule",
                    )
                    wait_until(
                        lambda client=client: client.hlen("unacked") == 0, "a delivery is not acknowledged", 120
                    )
                wait_until(lambda: fault_app.app.control.ping(timeout=1), "the worker does not obey")
                for answers in (told("stats"), told("conf")):
                    assert site.sentinels[0].password not in answers
                assert not worker.has_ended()


def refused(member: Member) -> int:
    """How many writes it has refused because too few replicas take part."""
    with member.client() as client:
        return int(client.info("errorstats").get("errorstat_NOREPLICAS", {}).get("count", 0))


def told(command: str) -> str:
    """What a worker answers to this command."""
    found: list[str] = []

    def asks() -> bool:
        inspect = fault_app.app.control.inspect(timeout=1)
        found.extend(str(answer) for answer in (getattr(inspect, command)() or {}).values())
        return any("master_name" in answer for answer in found)

    wait_until(asks, f"no worker tells {command}")
    return str(found)


def returns(marks: Path, number: int) -> bool:
    try:
        return bool(fault_app.count.delay(TENANT, USER, str(marks), number).get(timeout=10) == number)
    except NoResultError:
        return False


def test_a_call_that_queues_a_task_goes_through_a_planned_switch(
    settled_site: RedisSite, marks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writes are paused first, and refused while the replicas change sides."""
    site = settled_site
    monkeypatch.setattr(failover, "PATIENCE_SECONDS", 300)
    master, call = site.master, (TENANT, USER, str(marks))
    with master.client() as client, ThreadPoolExecutor(2) as callers:
        client.execute_command("CLIENT", "PAUSE", "2000", "WRITE")
        fault_app.count.delay(*call, 1)
        assert client.llen("sync") >= 1

        with frozen(*site.replicas):
            client.config_set("min-replicas-max-lag", 1)
            wait_until(lambda: not takes_writes(master), "it still takes writes")
            before = refused(master)
            calls = [
                callers.submit(fault_app.count.delay, *call, 2),
                callers.submit(publish_many, fault_app.count, [(*call, 3), (*call, 4)]),
            ]
            wait_until(lambda: refused(master) >= before + 4, "they are not tried again")
            client.config_set("min-replicas-max-lag", 10)
        for one in calls:
            one.result(300)
        assert client.llen("sync") >= 4


def test_a_call_that_queues_a_task_says_that_there_is_no_master(
    site: RedisSite, marks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failover, "PATIENCE_SECONDS", 2)
    call = (TENANT, USER, str(marks), 1)
    fault_app.count.delay(*call)
    for member in site.members:
        member.kill()
    with pytest.raises(BrokerUnavailableError, match="may be queued or not"):
        fault_app.count.delay(*call)
    with pytest.raises(OperationalError):
        publish_many(fault_app.count, [call])
    wait_until(lambda: "no Sentinel knows" in why(call), "a master that is down is connected to")


def why(call: tuple[object, ...]) -> str:
    with pytest.raises(BrokerUnavailableError) as raised:
        fault_app.count.apply_async(call, retry=False)
    return str(raised.value)


def takes_writes(member: Member) -> bool:
    try:
        with member.client() as client:
            return bool(client.set("metabuilder:test", 1))
    except redis.ResponseError:
        return False


def test_what_is_queued_outlives_the_master(
    site: RedisSite, marks: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row of a task queued in SQL goes, and a call returns, once a replica has the message too."""
    monkeypatch.setattr(failover, "PATIENCE_SECONDS", 0)
    monkeypatch.setattr(scripts, "_REPLICA_MILLISECONDS", 200)
    call = (TENANT, USER, str(marks), 1)
    queued = queue_in_sql(database, "check_spam", {"email_id": "m", "user_id": USER})
    master = site.master
    with master.client() as client:
        client.config_set("min-replicas-to-write", 0)  # else it might refuse, which is another case
        with frozen(*site.replicas):
            with pytest.raises(OperationalError, match="no replica of Redis has"):
                publish_queued(fault_app.app)
            with pytest.raises(BrokerUnavailableError, match="no replica of Redis has"):
                fault_app.count.apply_async(call, retry=False)
            # Its mark is there, and no second message; the row waits for the replica all the same.
            with pytest.raises(OperationalError, match="no replica of Redis has"):
                publish_queued(fault_app.app)
            assert [row.id for row in list_queued_tasks(10)] == [queued]
            assert client.llen("spam") == 1
            master.kill()
    site.wait_for_another_master(master)

    monkeypatch.setattr(failover, "PATIENCE_SECONDS", 300)
    monkeypatch.setattr(scripts, "_REPLICA_MILLISECONDS", 3000)
    publish_queued(fault_app.app)
    fault_app.count.delay(*call)
    assert list_queued_tasks(10) == []
    with site.master.client() as client:
        assert client.llen("spam") == 1
        assert client.llen("sync") >= 1  # the first may have been on its way to a replica


def queue_in_sql(database: Database, name: str, arguments: dict[str, object]) -> str:
    """Queue a task as the application does; the id of its row."""
    with psycopg2.connect(libpq(database.app_url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT set_config('metabuilder.tenant_id', %s, true)", (TENANT,))
        cursor.execute("SELECT queue_task(%s, %s)", (name, json.dumps(arguments)))
        return str(cursor.fetchone()[0])


def test_each_mail_is_sent_once_although_the_master_is_killed(
    site: RedisSite,
    database: Database,
    tmp_path: Path,
    environment: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of those whose call returned, by `.delay()` or `queue_task`, before, while and after the master changed."""
    monkeypatch.setattr(failover, "PATIENCE_SECONDS", 300)
    environment(
        SMTP_TIMEOUT="10", TASK_TIMEOUT="60", CELERY_TASK_SOFT_TIME_LIMIT="55", CELERY_VISIBILITY_TIMEOUT="62"
    )
    beat = ("-A", "tasks.celery_app", "beat", "--pidfile=", "-l", "INFO")
    with SmtpServer() as smtp, application() as app, ExitStack() as running:
        account = sending_account(Mailbox("127.0.0.1", 9, "ada", "x"), smtp)
        running.enter_context(Worker(tmp_path, 2))
        running.enter_context(ended(start("celery", beat, tmp_path / "beat.log")))
        is_over, queued = threading.Event(), list[str]()

        def queue(way: str) -> None:
            send_email = app.tasks[SEND_EMAIL]
            for number in count():
                subject = f"{way} {number}"
                arguments = {"email_client_id": account.id, "user_id": USER, "to": ["b@x.net"], "subject": subject}
                if way == "in SQL":
                    queue_in_sql(database, "send_email", arguments)
                else:
                    send_email.delay(tenant_id=TENANT, **arguments)
                queued.append(subject)
                if is_over.wait(0.1):
                    return

        with ThreadPoolExecutor(2) as callers:
            calls = [callers.submit(queue, way) for way in ("in SQL", "by call")]
            try:
                wait_until(lambda: len(smtp.taken()) > 20, "no mail is sent")
                old = site.master
                old.kill()
                site.wait_for_another_master(old)
                before = len(queued)
                wait_until(lambda: len(queued) > before + 20, "nothing is queued after that", 60)
            finally:
                is_over.set()
            for call in calls:
                call.result(120)
        wait_until(lambda: {*queued} <= {*smtp.taken()}, "not every mail is sent", 120)
        assert {*Counter(smtp.taken()).values()} == {1}
