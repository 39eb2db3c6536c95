"""A broker in any trouble: what systemd is told is true, the log stays short, no task suffers."""

import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from native.ports import LOOPBACK
from tasks.errors import BrokerUnavailableError
from tasks.registry import SYNC_EMAILS
from tasks.storage.dead_letters import list_letters
from tests.conftest import TENANT, USER, Database
from tests.integration.faults.conftest import MAX_CURE_SECONDS, SHORT_WAITS, seconds_until_done
from tests.integration.faults.conftest import broker as connection_to
from tests.support import fault_app
from tests.support.application import application
from tests.support.proxy import Network
from tests.support.servers import RedisServer
from tests.support.service_manager import Manager
from tests.support.trouble import in_trouble
from tests.support.worker import Worker, wait_until

APP = "tests.support.fault_app:app"
# Until the status is true: 10 s, and on a machine that runs other tests beside this one, some more.
MAX_STATUS_SECONDS = 10 + 3
ANSWER_SECONDS = 1.2  # of a slow Redis
MAX_PUBLISH_SECONDS = 10
MAX_SLOW_SECONDS = 60  # for two tasks, which take 45
MAX_LINES = 40  # of all outages


@pytest.fixture
def broker(database: Database, environment: Callable[..., None], tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as server:
        environment(REDIS_URL=server.url, **SHORT_WAITS)
        with application(fault_app):
            yield server


@pytest.fixture
def managers(tmp_path: Path) -> Iterator[Callable[[str], Manager]]:
    made: list[Manager] = []

    def make(name: str) -> Manager:
        made.append(Manager(tmp_path / f"{name}.socket"))
        return made[-1]

    yield make
    for manager in made:
        manager.close()


@contextmanager
def beat_of(log: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "celery", "-A", APP, "beat", "--pidfile=", "-l", "INFO"]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
        try:
            yield
        finally:
            process.terminate()
            process.wait(20)
            print(log.read_text())


def publish(folder: Path, numbers: range) -> None:
    for number in numbers:
        fault_app.count.apply_async((TENANT, USER, str(folder), number), queue="sync")


def done(folder: Path) -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in folder.glob("done-*"))


def test_what_is_said_of_an_outage_is_true_and_short(
    broker: RedisServer, managers: Callable[[str], Manager], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    beat_log = tmp_path / "beat.log"
    monkeypatch.setenv("NOTIFY_SOCKET", (beat := managers("beat")).path)
    with beat_of(beat_log):
        monkeypatch.setenv("NOTIFY_SOCKET", (worker := managers("worker")).path)
        with Worker(tmp_path, 2, app=APP) as running:
            published = 0
            for trouble in ("away", "read-only", "silent", "out of clients", "full"):
                # What it takes out of a full Redis makes room.
                still = "Consumes" if trouble == "full" else "Does not consume"
                publish(tmp_path, range(published, published + 4))
                published += 4
                wait_until(lambda: "Consumes" in worker.status(), "the worker does not consume")
                wait_until(lambda: "Keeps" in beat.status(), "beat does not schedule")
                wait_until(lambda so_far=published: len(done(tmp_path)) == so_far, "some are not done")
                with in_trouble(broker, trouble):
                    began = time.monotonic()
                    wait_until(lambda so=still: so in worker.status(), f"{trouble}: the worker says nothing")
                    wait_until(lambda: "Queues nothing" in beat.status(), f"{trouble}: beat says nothing")
                    assert time.monotonic() - began < MAX_STATUS_SECONDS
                    time.sleep(5)
                    assert still in worker.status()
                    assert "Queues nothing" in beat.status()
                    if trouble == "full":  # though what the worker takes makes room
                        with pytest.raises(BrokerUnavailableError):
                            publish(tmp_path, range(1))
                began = time.monotonic()
                assert seconds_until_done(tmp_path, published) < MAX_CURE_SECONDS, trouble
                wait_until(lambda: "Consumes" in worker.status(), f"{trouble}: the worker does not consume any more")
                assert time.monotonic() - began < MAX_CURE_SECONDS
                published += 1
            for end in (broker.stop, broker.kill):
                end()
                broker.start()
                assert seconds_until_done(tmp_path, published) < MAX_CURE_SECONDS, end
                published += 1
            lines = [
                line for line in running.log.read_text().partition(" ready.")[2].splitlines() if "Task " not in line
            ]
            assert len(lines) < MAX_LINES
            assert "Traceback" not in running.log.read_text() + beat_log.read_text()
    assert len(beat_log.read_text().splitlines()) < MAX_LINES
    assert done(tmp_path) == [*range(published)]
    assert list_letters() == []


def test_a_worker_out_of_descriptors_goes_on_when_it_has_some(
    broker: RedisServer, managers: Callable[[str], Manager], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", (told := managers("worker")).path)
    with Worker(tmp_path, 2, app=APP) as worker, connection_to(broker) as client:
        publish(tmp_path, range(4))
        wait_until(lambda: len(done(tmp_path)) == 4, "it does not consume")
        processes = [worker.pid, *(child.pid for child in worker.children())]
        before = [resource.prlimit(pid, resource.RLIMIT_NOFILE) for pid in processes]
        for pid, (_, hard) in zip(processes, before, strict=True):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (8, hard))
        client.client_kill_filter(_type="normal", skipme=True)
        began = time.monotonic()
        publish(tmp_path, range(4, 8))
        wait_until(lambda: "Does not consume" in told.status(), "it says nothing")
        assert time.monotonic() - began < MAX_STATUS_SECONDS
        time.sleep(3)
        for pid, limits in zip(processes, before, strict=True):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        assert seconds_until_done(tmp_path, 8) < MAX_CURE_SECONDS
        wait_until(lambda: "Consumes" in told.status(), "it says that it does not consume")
        wait_until(lambda: done(tmp_path) == [*range(9)], "some are not done, or not once")
    assert list_letters() == []


def test_a_slow_redis_is_waited_for(
    broker: RedisServer,
    managers: Callable[[str], Manager],
    environment: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """A task takes several answers. The questions that a worker asks every few seconds leave it time for tasks."""
    monkeypatch.setenv("NOTIFY_SOCKET", (told := managers("worker")).path)
    with Network((LOOPBACK, broker.port)) as network, connection_to(broker) as client:
        behind_it = broker.url.replace(f":{broker.port}", f":{network.port}")
        environment(REDIS_URL=behind_it, TASK_TIMEOUT="100", CELERY_TASK_SOFT_TIME_LIMIT="90")
        environment(CELERY_VISIBILITY_TIMEOUT="110")
        with Worker(tmp_path, app=APP, queues="sync") as worker:
            publish(tmp_path, range(1))  # past the network
            wait_until(lambda: done(tmp_path) == [0], "it does not consume")
            network.late_seconds = ANSWER_SECONDS / 2  # each way
            publish(tmp_path, range(1, 3))
            began, said = time.monotonic(), set[str]()
            with application() as app:
                app.tasks[SYNC_EMAILS].apply_async(("account", TENANT, USER), queue="send")
            assert time.monotonic() - began < MAX_PUBLISH_SECONDS
            assert client.llen("send") == 1
            while len(done(tmp_path)) < 3:
                said.add(told.status().partition(" ")[0])
                assert time.monotonic() - began < MAX_SLOW_SECONDS, worker.log.read_text()
                time.sleep(0.05)
            network.late_seconds = 0
            assert said == {"Consumes"}
            assert "broker lost" not in worker.log.read_text()
            assert "Traceback" not in worker.log.read_text()
    assert done(tmp_path) == [*range(3)]
    assert list_letters() == []


def test_an_answer_that_cannot_be_given_keeps_no_worker_from_its_work(broker: RedisServer, tmp_path: Path) -> None:
    """To remote control: for that a worker connects anew, which Redis may refuse."""
    with Worker(tmp_path, app=APP) as worker, connection_to(broker) as client:
        publish(tmp_path, range(1))
        wait_until(lambda: done(tmp_path), "it does not consume")
        client.config_set("maxclients", client.info("clients")["connected_clients"])
        ping = {"method": "ping", "arguments": {}, "destination": None, "pattern": None, "matcher": None}
        reply_to = {"exchange": "reply.celery.pidbox", "routing_key": "nobody"}
        with fault_app.app.producer_pool.acquire() as producer:
            producer.publish(
                {**ping, "ticket": "ticket", "reply_to": reply_to},
                exchange=fault_app.app.control.mailbox.exchange.name,
                declare=[fault_app.app.control.mailbox.exchange],
                headers={"clock": 1, "expires": 0},
            )
        began = time.monotonic()
        publish(tmp_path, range(1, 4))
        wait_until(lambda: done(tmp_path) == [*range(4)], "it does not consume any more")
        assert time.monotonic() - began < 5
        assert "max number of clients" in worker.log.read_text()
