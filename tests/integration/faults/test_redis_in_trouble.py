"""A Redis that is full, silent, away or odd costs time and no task: none is a dead letter, no worker is killed."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis as redis_client

from tasks.errors import BrokerUnavailableError
from tasks.registry import SYNC_EMAILS
from tasks.runtime.control import get_active_tasks, get_task_status
from tasks.runtime.scheduler import SharedScheduler
from tasks.storage.dead_letters import list_letters
from tests.conftest import TENANT, USER
from tests.integration.faults.conftest import (
    APP,
    MAX_CURE_SECONDS,
    MAX_STOP_SECONDS,
    publish,
    seconds_until_done,
    stop,
)
from tests.integration.faults.conftest import broker as connection_to
from tests.support import fault_app
from tests.support.application import application
from tests.support.fault_app import done
from tests.support.servers import RedisServer
from tests.support.worker import Worker, wait_until

RECONNECTS = 200
# Sockets that are being closed.
SPARE = 10


@pytest.fixture
def results(client: redis_client.Redis, tmp_path: Path, environment: Callable[..., None]) -> Iterator[RedisServer]:
    """A result store of its own."""
    with RedisServer(tmp_path / "results") as server:
        environment(CELERY_RESULT_BACKEND=server.url)
        yield server


def descriptors(worker: Worker) -> list[int]:
    return [process.num_fds() for process in (psutil.Process(worker.pid), *worker.children())]


def waiting(client: redis_client.Redis) -> set[str]:
    """The connections on which workers wait for messages."""
    return {found["id"] for found in client.client_list() if found["cmd"] == "brpop"}


def test_a_full_redis_stops_no_worker(client: redis_client.Redis, tmp_path: Path) -> None:
    publish(tmp_path, range(1500))
    with Worker(tmp_path, 2, app=APP) as worker:
        wait_until(lambda: len(done(tmp_path)) > 5, "it does not consume")
        before = descriptors(worker)
        client.config_set("maxmemory", "1mb")
        try:
            with pytest.raises(BrokerUnavailableError):
                publish(tmp_path, range(1))
            for _ in range(10):
                so_far = len(done(tmp_path))
                wait_until(
                    lambda so_far=so_far: len(done(tmp_path)) > so_far, "it does not consume from a full Redis"
                )
                time.sleep(1)
                assert all(now <= then + SPARE for now, then in zip(descriptors(worker), before, strict=True))
        finally:
            client.config_set("maxmemory", "0")
        # In a queue of its own, not behind those that still wait.
        assert seconds_until_done(tmp_path, 1500, queue="send") < MAX_CURE_SECONDS
        assert list_letters() == []
        assert stop(worker) < MAX_STOP_SECONDS
        log = worker.log.read_text()
        assert "Traceback" not in log
        assert log.count("Redis is full") <= 3
        assert log.count("the result store does not take") <= 2


def test_a_worker_that_starts_with_a_full_redis_empties_it(client: redis_client.Redis, tmp_path: Path) -> None:
    publish(tmp_path, range(5))
    client.config_set("maxmemory", "1")
    try:
        with Worker(tmp_path, app=APP) as worker:
            wait_until(lambda: len(done(tmp_path)) == 5, "it does not consume")
            assert "broker lost" not in worker.log.read_text()
    finally:
        client.config_set("maxmemory", "0")


def test_beat_and_publishers_leak_nothing_however_often_they_connect_anew(client: redis_client.Redis) -> None:
    with application() as app:
        scheduler, sync = SharedScheduler(app, lazy=True), app.tasks[SYNC_EMAILS]
        process = psutil.Process()

        def counts() -> tuple[int, int, int]:
            return process.num_fds(), process.num_threads(), client.info("clients")["connected_clients"]

        for use in (scheduler.tick, lambda: sync.delay("account", TENANT, USER), lambda: get_task_status("id")):

            def connect_anew(use: Callable[[], object] = use) -> None:
                client.client_kill_filter(_type="normal", skipme=True)
                use()

            use()
            connect_anew()  # connections that earlier tests left are cut with it
            before = counts()
            for _ in range(RECONNECTS):
                connect_anew()
            assert all(now <= then for now, then in zip(counts(), before, strict=True)), (counts(), before)


def test_nothing_leaks_however_often_it_connects_anew(client: redis_client.Redis, tmp_path: Path) -> None:
    """Two workers, as Celery lets one connect anew no more than five times a second."""
    folders = [tmp_path / name for name in ("one", "other")]
    for folder in folders:
        folder.mkdir()
    with Worker(folders[0], app=APP) as one, Worker(folders[1], app=APP) as other:
        workers = one, other
        publish(tmp_path, range(20))
        wait_until(lambda: len(done(tmp_path)) == 20, "they do not consume")
        before = [count for worker in workers for count in descriptors(worker)]
        threads = [psutil.Process(worker.pid).num_threads() for worker in workers]
        for number in range(RECONNECTS // len(workers)):
            killed = waiting(client)
            client.client_kill_filter(_type="normal", skipme=True)
            wait_until(
                lambda killed=killed: len(waiting(client) - killed) == len(workers), f"one stopped at {number}", 10
            )
        publish(tmp_path, range(20, 40))
        wait_until(lambda: len(done(tmp_path)) == 40, "they do not consume any more")
        after = [count for worker in workers for count in descriptors(worker)]
        assert all(now <= then + SPARE for now, then in zip(after, before, strict=True)), (before, after)
        assert [psutil.Process(worker.pid).num_threads() for worker in workers] == threads
        assert int(client.info("clients")["connected_clients"]) < 40
        assert all(stop(worker) < MAX_STOP_SECONDS for worker in workers)
    assert list_letters() == []


@pytest.mark.parametrize("trouble", ["restarted", "silent", "gone", "full", "read-only"])
def test_a_result_store_in_trouble_decides_nothing(
    trouble: str, results: RedisServer, client: redis_client.Redis, tmp_path: Path
) -> None:
    """The first task of each child meets a connection that went stale (the write of STARTED)."""
    with Worker(tmp_path, 2, app=APP) as worker, connection_to(results) as store:
        publish(tmp_path, range(10))
        wait_until(lambda: len(done(tmp_path)) == 10, "it does not consume")
        pid = int(store.info("server")["process_id"])
        if trouble == "restarted":
            results.restart()
        elif trouble == "gone":
            results.stop()
        elif trouble == "silent":
            os.kill(pid, signal.SIGSTOP)
        elif trouble == "full":
            store.config_set("maxmemory", "1")
        else:
            store.execute_command("REPLICAOF", "127.0.0.1", "1")
        try:
            publish(tmp_path, range(10, 20))
            wait_until(lambda: len(done(tmp_path)) == 20, "some are not done", 60)
            wait_until(lambda: not client.exists("unacked"), "some are not acknowledged", 60)
        finally:
            if trouble == "silent":
                os.kill(pid, signal.SIGCONT)
        assert stop(worker) < MAX_STOP_SECONDS
        assert "Traceback" not in worker.log.read_text()
    assert len(list(tmp_path.glob("done-*"))) == 20  # each once
    assert list_letters() == []


ODD: list[Any] = ["null", "[1]", "5", '"words"', "{}", "no JSON", '{"status": 5}', "[" * 60_000]


@pytest.mark.parametrize("odd", [*ODD, ["a", "list"]], ids=lambda odd: str(odd)[:20])
def test_a_result_that_is_none_costs_itself(
    odd: Any, client: redis_client.Redis, redis: RedisServer, tmp_path: Path
) -> None:

    with redis_client.Redis(port=redis.port, password=redis.password, db=1) as store:
        key = "celery-task-meta-an-id"
        store.rpush(key, *odd) if isinstance(odd, list) else store.set(key, odd)
        assert get_task_status("an-id") == {"task_id": "an-id", "state": "PENDING"}
        with Worker(tmp_path, app=APP):
            fault_app.count.apply_async((TENANT, USER, str(tmp_path), 1), queue="sync", task_id="an-id")
            wait_until(lambda: get_task_status("an-id")["state"] == "SUCCESS", "its result is not noted")
        noted = json.loads(store.get(key))
        assert noted["result"] == 1
        assert get_task_status("an-id", tenant_id=TENANT)["state"] == "SUCCESS"
        # As a worker of the release before notes it, or somebody else.
        for owner in (None, TENANT, [TENANT], {"tenant_id": TENANT}, [[TENANT], USER]):
            store.set(key, json.dumps({**noted, "metabuilder_owner": owner}))
            assert get_task_status("an-id", tenant_id=TENANT)["state"] == "PENDING"
            assert get_task_status("an-id")["state"] == "SUCCESS"
    assert list_letters() == []


@pytest.mark.parametrize(
    "key",
    [
        *("unacked", "unacked_index", "sync", "metabuilder:aside", "metabuilder:aside:unknown"),
        *("metabuilder:wake:sync", "metabuilder:revoked"),
        *("_kombu.binding_deadlines", "_kombu.binding.celery.pidbox"),
    ],
)
def test_a_key_of_another_type_stops_no_worker(key: str, client: redis_client.Redis, tmp_path: Path) -> None:
    client.set(key, "words")
    with Worker(tmp_path, app=APP) as worker:
        time.sleep(2)
        publish(tmp_path, range(5))
        wait_until(lambda: len(done(tmp_path)) == 5, "it does not consume")
        wait_until(lambda: not client.exists("unacked", "unacked_index"), "some are not acknowledged")
        assert list(get_active_tasks().values()) == [[]]
        assert "Traceback" not in worker.log.read_text()
    if "wake" not in key:
        assert client.get(f"{key}:of-another-type") == "words"


def test_tables_and_locks_of_anything_stop_nobody(client: redis_client.Redis, tmp_path: Path) -> None:
    client.sadd("_kombu.binding.sync", "no binding")
    client.rpush("unacked_mutex", "nobody's")
    client.hset("unacked", "a tag", "no message")
    client.zadd("unacked_index", {"a tag": 1})
    with Worker(tmp_path, app=APP) as worker:
        publish(tmp_path, range(5))
        wait_until(lambda: len(done(tmp_path)) == 5, "it does not consume")
        wait_until(lambda: client.hlen("metabuilder:aside") == 1, "the lock is never released")
        wait_until(lambda: not client.exists("unacked", "unacked_index"), "some are not acknowledged")
        assert "Traceback" not in worker.log.read_text()


def test_a_broker_that_is_away_is_said_at_once(
    client: redis_client.Redis, environment: Callable[..., None], tmp_path: Path
) -> None:
    environment(REDIS_URL="redis://127.0.0.1:1")
    began = time.monotonic()
    with application() as app, pytest.raises(BrokerUnavailableError, match="idempotency_key"):
        app.tasks["email_service.tasks.sync_emails"].delay("account", TENANT, USER)
    assert time.monotonic() - began < 10
