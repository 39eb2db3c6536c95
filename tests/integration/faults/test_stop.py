"""A worker stops in its normal time whatever Redis is at, and gives back nothing that it has done."""

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import redis as redis_client

from native.redis import RedisServer
from tasks.storage.dead_letters import list_letters
from tests.conftest import TENANT, USER, Database
from tests.integration.faults.conftest import SHORT_WAITS
from tests.integration.faults.conftest import broker as connection_to
from tests.support import fault_app
from tests.support.application import application
from tests.support.worker import Worker, wait_until

APP = "tests.support.fault_app:app"
LONGEST_STOP = 20


@pytest.fixture
def client(redis: RedisServer, database: Database, environment: Callable[..., None]) -> Iterator[redis_client.Redis]:
    environment(REDIS_URL=redis.url, **SHORT_WAITS)
    with connection_to(redis) as client, application(fault_app.app):
        client.flushall()
        yield client


def publish(folder: Path, numbers: range) -> None:
    for number in numbers:
        fault_app.count.apply_async((TENANT, USER, str(folder), number), queue="sync")


def marks(folder: Path) -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in folder.glob("done-*"))


@pytest.mark.parametrize("loses_its_connection", [False, True])
def test_a_stop_does_not_wait_for_what_nobody_reads(
    loses_its_connection: bool, client: redis_client.Redis, tmp_path: Path
) -> None:
    """Celery forgets what a process has not said that it began, and then waits 30 s for the process."""
    with Worker(tmp_path, 2, app=APP) as worker:
        children = worker.children()
        for child in children:
            child.send_signal(signal.SIGSTOP)
        publish(tmp_path, range(2))
        wait_until(lambda: client.hlen("unacked") == 2, "it takes none")
        time.sleep(1)  # the processes are given them
        if loses_its_connection:
            client.client_kill_filter(_type="pubsub")
            wait_until(lambda: worker.log.read_text().count("Connected to") == 2, "it does not connect anew")
        began = time.monotonic()
        psutil.Process(worker.pid).send_signal(signal.SIGTERM)
        time.sleep(0.5)
        for child in children:
            child.send_signal(signal.SIGCONT)
        worker.wait(40)
        assert time.monotonic() - began < LONGEST_STOP
    if loses_its_connection:  # what was in hand was given back, or comes back
        assert {*marks(tmp_path)} <= {0, 1}
        assert client.llen("sync") + client.hlen("unacked") + len(marks(tmp_path)) >= 2
    else:
        assert marks(tmp_path) == [0, 1]
        assert not client.exists("unacked", "unacked_index", "sync")
    assert list_letters() == []
