"""What workers report of themselves and count, and what is read of that and of the queues."""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import redis as redis_client

from tasks.monitoring.readings.queues import QueueReading, in_hand, queues
from tasks.monitoring.readings.totals import totals
from tasks.monitoring.readings.workers import WorkerReading, tasks_at_work, workers
from tasks.monitoring.report import TTL_SECONDS, WORKERS, report_key
from tasks.monitoring.totals import TOTALS
from tasks.registry import QUEUES, SYNC_EMAILS
from tasks.runtime.broker.cleanup import count_orphans
from tasks.storage.session import POOL_SIZE
from tests.conftest import TENANT, USER
from tests.integration.faults.conftest import APP, MAX_STOP_SECONDS, drain, publish, stop
from tests.support import fault_app
from tests.support.fault_app import begun, done, hold, runs
from tests.support.servers import RedisServer
from tests.support.worker import Worker, wait_until

SECRET = "words of a mail"


@pytest.fixture
def client(client: redis_client.Redis, redis: RedisServer) -> Iterator[redis_client.Redis]:
    """The connection to the broker's database as programs have it, in bytes."""
    with redis_client.Redis(port=redis.port, password=redis.password) as raw:
        yield raw


@pytest.fixture
def worker(client: redis_client.Redis, tmp_path: Path) -> Iterator[Worker]:
    """A worker with two processes, which has reported."""
    with Worker(tmp_path, 2, app=APP) as worker:
        wait_until(lambda: [one for one in workers(client) if one.consumes], "it does not report")
        yield worker


def only(client: redis_client.Redis) -> WorkerReading:
    [found] = workers(client)
    return found


def busy(client: redis_client.Redis) -> int:
    return len(list(tasks_at_work(workers(client))))


def ended(client: redis_client.Redis) -> dict[tuple[str, ...], int]:
    return dict(totals(client).ended)


def test_a_worker_tells_of_itself_and_its_totals_outlive_it(
    worker: Worker, client: redis_client.Redis, tmp_path: Path
) -> None:
    # Given a task that failed, two at work, one in hand that waits for its time, two on the queue
    fault_app.app.send_task(SYNC_EMAILS, ("nobody's", TENANT, USER), queue="sync")
    wait_until(lambda: ended(client), "the failure is not counted")
    hold(tmp_path)
    publish(tmp_path, [1], countdown=600)
    publish(tmp_path, [2])
    wait_until(lambda: begun(tmp_path) == 1, "it has not begun")
    fault_app.fault.apply_async((TENANT, USER, str(tmp_path), "hang", SECRET), queue="sync")
    publish(tmp_path, [3, 4])
    wait_until(lambda: busy(client) == 2 and only(client).report.reserved == 1, "it is not reported")

    # Then it says so, and nothing of the mail
    report = only(client).report
    assert (report.pid, report.concurrency, report.restarts, report.is_stopping) == (worker.pid, 2, 0, False)
    assert {child.pid for child in report.children} == {child.pid for child in worker.children()}
    assert all(child.pss > 2**20 for child in report.children)
    assert report.pss > 2**20
    # Connections are looked at in each fifth report
    wait_until(lambda: only(client).report.connections.postgresql, "its connections are not seen")
    held = only(client).report.connections
    assert held.redis >= 1
    assert held.postgresql_kept == 2 * POOL_SIZE
    assert count_orphans(client) == 0, "the cleanup does not know a key of the broker"
    at_work = {task.work.name: task for task in tasks_at_work(workers(client))}
    assert at_work.keys() == {"test.count", "test.fault"}
    assert TENANT in at_work["test.fault"].work.positional
    assert SECRET.encode() not in client.get(report_key(only(client).node))
    assert in_hand(client) == 3

    # When its processes are killed, the tasks are lost, and given to others
    worker.kill_child()
    (tmp_path / "mended").touch()
    (tmp_path / "held").unlink()
    wait_until(lambda: done(tmp_path).keys() == {2, 3, 4} and runs(tmp_path) == 2, "they are not done")
    wait_until(lambda: busy(client) == 0 and sum(ended(client).values()) == 7, "they are not counted")
    assert ended(client) == {(SYNC_EMAILS, "failure"): 1, ("other", "lost"): 2, ("other", "success"): 4}
    wait_until(lambda: only(client).report.restarts == 2, "the restarts are not counted")
    found = totals(client)
    assert found.errors == {(SYNC_EMAILS, "not_found"): 1}
    assert found.redelivered == {("other",): 2}
    assert {of: sum(one.counts.values()) for of, one in found.run.items()} == ended(client)
    assert {of: sum(one.counts.values()) for of, one in found.wait.items()} == {(SYNC_EMAILS,): 1, ("other",): 6}
    assert found.run["other", "success"].seconds > 3 * 0.05

    # When all of it is killed at once, then it is down as soon as its report has expired
    node, before = only(client).node, found
    worker.kill()
    assert 0 < client.pttl(report_key(node)) <= TTL_SECONDS * 1000
    client.pexpire(report_key(node), 1)
    wait_until(lambda: not only(client).is_up, "it is still up")
    assert only(client).node == node
    assert only(client).age < TTL_SECONDS
    assert totals(client) == before

    # When another takes its place, and is stopped, then it adds to the totals, and is forgotten
    worker.start()
    publish(tmp_path, [5])
    wait_until(lambda: done(tmp_path)[5], "it is not done")
    assert stop(worker) < MAX_STOP_SECONDS
    assert ended(client) == {**before.ended, ("other", "success"): 5}
    assert workers(client) == ()
    log = worker.log.read_text()
    assert "cannot report" not in log
    assert "Signal handler" not in log


def test_odd_content_costs_itself_and_a_full_redis_no_report(
    worker: Worker, client: redis_client.Redis, tmp_path: Path
) -> None:
    publish(tmp_path, [1])
    wait_until(lambda: ended(client), "it is not counted")
    node = only(client).node
    odd: list[Any] = ["", "null", "[1]", "{}", "[" * 60_000, "x" * 2_000_000, '{"node": 5}']
    for number, text in enumerate(odd):
        client.set(report_key(f"odd-{number}"), text, ex=TTL_SECONDS)
    client.set(report_key("for-ever"), client.get(report_key(node)))
    client.rpush(report_key("list"), "x")
    nodes = {"for-ever", "list", *(f"odd-{number}" for number in range(len(odd)))}
    client.zadd(WORKERS, dict.fromkeys(nodes, time.time()))
    client.zadd(WORKERS, {"ahead": float("inf"), b"\xff\n": time.time()})
    client.hset(TOTALS, "ended|nobody|knows", 3)
    for name, value in {"ended": "1", "": "1", "run|x": "1", "wait|x|y|z": "1", "ended|x|y": "words"}.items():
        client.hset(TOTALS, name, value)
    client.hset(TOTALS, "ended|test.count|success", "9" * 40)

    assert {one.node for one in workers(client) if one.is_up} == {node}
    assert len(workers(client)) == len(nodes) + 3
    assert ended(client) == {("other", "other"): 3}
    publish(tmp_path, [2])
    wait_until(lambda: ended(client).get(("other", "success")), "a total that is no number is kept")

    # Keys of another type are put out of the way
    for key in (WORKERS, TOTALS):
        client.delete(key)
        client.rpush(key, "x")
    assert workers(client) == ()
    assert not any(asdict(totals(client)).values())
    publish(tmp_path, [3])
    wait_until(lambda: workers(client) and ended(client), "it does not report any more")

    # A full Redis takes reports and counts
    client.config_set("maxmemory", "1")
    try:
        before = ended(client)
        client.expire(report_key(node), 1)
        wait_until(lambda: client.pttl(report_key(node)) > 5000, "it does not report to a full Redis")
        assert stop(worker) < MAX_STOP_SECONDS
        assert ended(client) == before
    finally:
        client.config_set("maxmemory", "0")
    # Once for each key of another type
    assert worker.log.read_text().count("cannot report on itself: ResponseError") <= 2


def of_queue(client: redis_client.Redis, name: str) -> QueueReading:
    return {found.name: found for found in queues(client)}[name]


def test_the_age_of_a_queue_is_that_of_what_is_due(client: redis_client.Redis, connect: Any, tmp_path: Path) -> None:
    assert [found.name for found in queues(client)] == list(QUEUES)
    assert of_queue(client, "send") == QueueReading("send", 0, None)

    # A message that waits for its time is not old, however it lies
    publish(tmp_path, [1], queue="send", countdown=600)
    assert of_queue(client, "send") == QueueReading("send", 1, None)
    publish(tmp_path, [2], queue="send", priority=9)
    publish(tmp_path, [3], queue="send")
    time.sleep(0.2)
    assert of_queue(client, "send").depth == 3
    assert 0.2 <= of_queue(client, "send").oldest_seconds < 5

    # A message that is given back is as old as its last stay on the queue
    channel, got = connect()
    drain(channel, lambda: len(got) == 3)
    assert of_queue(client, "send") == QueueReading("send", 0, None)
    for message in got:
        channel.qos.reject(message.delivery_tag, requeue=True)
    again = sorted(json.loads(text)["due"] for key in client.keys("send*") for text in client.lrange(key, 0, -1))
    now = float(client.time()[0])
    assert [due - now < 2 for due in again] == [True, True, False]
    assert all(due > now - 2 for due in again)
    assert 590 < max(again) - now < 601

    # Messages of older releases have no age, and odd keys cost themselves
    client.delete("send", "send\x06\x169")
    client.lpush("send", json.dumps({"body": ""}), '{"due": 1', "", '{"due": 99999999999.5, "b', "x" * 2_000_000)
    client.lpush("sync", "{}")
    client.set("spam", "words")
    client.hset("delete", "a", "hash")
    assert {found.name: found.depth for found in queues(client) if found.depth} == {"send": 5, "sync": 1}
    assert {found.oldest_seconds for found in queues(client)} == {None}
    client.set("unacked", "words")
    assert in_hand(client) == 0
