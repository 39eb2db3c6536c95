"""A canary of a queue comes back where a worker consumes the queue, one of a worker where that worker consumes.

Nothing of a canary stays.
"""

import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis as redis_client

from native import health
from tasks import celery_app as celery_app_module
from tasks.monitoring import canary
from tasks.monitoring.canary import Consumption, consumption, consumption_of_workers
from tasks.registry import QUEUES
from tasks.runtime.admission import PROBE
from tasks.runtime.broker.queues import own_queue, wake_key
from tasks.storage.dead_letters import list_letters
from tests.conftest import TENANT, USER, Database
from tests.integration.faults.conftest import SHORT_WAITS
from tests.integration.faults.conftest import broker as connection_to
from tests.support import fault_app
from tests.support.application import application
from tests.support.servers import RedisServer
from tests.support.worker import Worker, wait_until

CONSUMED = ("sync", "reread")
NODE = f"celery@{socket.gethostname()}"
PATIENCE = 2.0
BACKLOG = 200


@pytest.fixture
def client(redis: RedisServer, database: Database, environment: Callable[..., None]) -> Iterator[redis_client.Redis]:
    environment(REDIS_URL=redis.url, **{**SHORT_WAITS, "TASK_TIMEOUT": "60", "CELERY_TASK_SOFT_TIME_LIMIT": "50"})
    environment(CELERY_VISIBILITY_TIMEOUT="90")
    with connection_to(redis) as connected, application(fault_app):
        yield connected


def look(*queues: str, patience: float = PATIENCE) -> dict[str, Consumption]:
    return {found.name: found for found in consumption(fault_app.app, queues or tuple(QUEUES), patience)}


def look_at_worker(patience: float = PATIENCE) -> Consumption:
    (found,) = consumption_of_workers(fault_app.app, [NODE], patience, patience)
    return found


def is_idle() -> bool:
    """Whether the worker answers, and has no task in hand."""
    worker = fault_app.app.control.inspect(timeout=0.3)
    answers = worker.reserved(), worker.active()
    return all(answers) and not any(tasks for answer in answers for tasks in answer.values())


def publish(folder: Path, count: int) -> None:
    for number in range(count):
        fault_app.count.apply_async((TENANT, USER, str(folder), number), queue="sync")


def test_each_queue_is_looked_at_and_nothing_is_left(
    client: redis_client.Redis, redis: RedisServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(celery_app_module, "celery_app", fault_app.app)
    monkeypatch.setattr(canary, "_ASKED_SECONDS", 0.5)
    left = fault_app.app.send_task(
        PROBE, ("ok",), {"index": 0}, queue="sync", expires=0.1
    )  # by somebody who was killed
    with Worker(tmp_path, 2, app="tests.support.fault_app:app", queues=",".join(CONSUMED)) as worker:
        left.get(timeout=10, propagate=False)
        assert left.state == "REVOKED"  # it was not run
        left.forget()
        found = look()
        assert {queue for queue, of in found.items() if of.seconds is not None} == {*CONSUMED}
        assert {queue for queue, of in found.items() if of.ok} == {*CONSUMED}
        check = health.worker_consumes(patience=1)
        assert not check.ok
        assert "from periodic, send, delete, spam" in check.detail
        of_worker, of_nobody = consumption_of_workers(fault_app.app, [NODE, "nobody@nowhere"], 1, 10)
        assert of_worker.name == NODE
        assert of_worker.seconds is not None
        assert of_nobody == Consumption("nobody@nowhere", None)
        assert not any(client.llen(queue) for queue in QUEUES)
        assert not [*client.scan_iter("*metabuilder:canary:*")]
        assert not any(client.llen(wake_key(queue)) for queue in QUEUES)
        assert not [*redis_results(redis)]

        # A long queue is no reason to wait
        held = fault_app.hold(tmp_path)
        publish(tmp_path, BACKLOG)
        wait_until(lambda: fault_app.begun(tmp_path) == 2, "the tasks do not begin")
        # All processes are at work, with tasks within their time limits
        found = look(patience=1)
        assert found["sync"] == Consumption("sync", None, at_work=2)
        assert found["reread"] == Consumption("reread", None, at_work=2, waits_for_others=True)
        assert not found["send"].ok
        # A worker's report is at most two seconds old.
        assert look_at_worker(patience=2.5) == Consumption(NODE, None, at_work=2)
        assert client.llen("sync") >= BACKLOG - 4
        with ThreadPoolExecutor() as aside:
            patient = aside.submit(consumption_of_workers, fault_app.app, [NODE], 0, 30)
            wait_until(lambda: client.llen(own_queue(NODE)) == 1, "the canary does not wait")
            held.unlink()
            assert (look("sync")["sync"].seconds or PATIENCE) < PATIENCE
            assert client.llen("sync") > BACKLOG / 2
            (of_worker,) = patient.result()
        assert of_worker.seconds is not None
        assert of_worker.at_work == 2
        client.delete("sync")

        # One process is at work, and the other is stuck
        wait_until(is_idle, "it is at work")
        held = fault_app.hold(tmp_path)
        publish(tmp_path, 1)
        wait_until(lambda: fault_app.app.control.inspect(timeout=0.3).active()[NODE], "the task does not begin")
        for child in worker.children():
            child.suspend()
        assert look("sync", patience=1)["sync"] == Consumption("sync", None)
        for child in worker.children():
            child.resume()
        held.unlink()

        # It answers, but runs nothing
        wait_until(is_idle, "it is at work")
        for child in worker.children():
            child.suspend()
        assert fault_app.app.control.inspect(timeout=1).ping()
        began = time.monotonic()
        assert not look("sync", patience=1)["sync"].ok
        assert not look_at_worker(patience=1).ok
        assert time.monotonic() - began < 60
    assert list_letters() == []
    assert not any(client.llen(queue) for queue in QUEUES)


def redis_results(server: RedisServer) -> Iterator[bytes]:
    """The keys of the result store."""
    with redis_client.Redis(port=server.port, password=server.password, db=1) as results:
        yield from results.scan_iter("celery-task-meta-*")
