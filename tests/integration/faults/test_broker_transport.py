"""No message is lost between the broker and a worker, whatever becomes of the worker."""

import base64
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis as redis_client
from kombu import Connection

from tasks.runtime.broker import aside
from tasks.runtime.broker.queues import wake_key
from tests.integration.faults.conftest import APP, drain
from tests.integration.faults.conftest import publish as publish_all
from tests.support import fault_app
from tests.support.debians_redis import DebiansRedis
from tests.support.servers import RedisServer
from tests.support.worker import Worker, wait_until


@pytest.fixture(scope="module", params=[RedisServer, DebiansRedis])
def redis_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with request.param(tmp_path_factory.mktemp("redis")) as server:
        yield server


def publish(folder: Path, number: int) -> None:
    publish_all(folder, [number], queue="send", ignore_result=True)


def is_waiting(channel: Any) -> bool:
    return bool(channel._pending == "wait")


def test_a_message_for_an_idle_worker_that_is_gone(client: redis_client.Redis, tmp_path: Path) -> None:
    # Given an idle worker that is no more than its open connection, as when its machine is unplugged
    with Worker(tmp_path, app=APP) as worker:
        publish(tmp_path, 1)
        wait_until(lambda: list(tmp_path.glob("done-1-*")), "it does not consume")
        time.sleep(1)
        os.kill(worker.pid, signal.SIGSTOP)
        try:
            # When there is something to do
            publish(tmp_path, 2)
            time.sleep(1)
        finally:
            worker.kill()

        # Then the next worker does it
        assert client.llen("send") == 1
        worker.start()
        wait_until(lambda: list(tmp_path.glob("done-2-*")), "it is lost", 10)


def test_a_message_taken_by_a_worker_that_dies_before_it_knows(
    client: redis_client.Redis, connect: Callable[[], tuple[Any, list[Any]]], tmp_path: Path
) -> None:
    # Given a worker whose question is answered and that has not read the answer
    channel, got = connect()
    publish(tmp_path, 1)
    channel.connection.cycle.on_poll_start()
    wait_until(lambda: not client.exists("send"), "it is not taken")
    channel.client.connection.disconnect()

    # Then the message is noted as delivered, and comes back in time
    assert got == []
    [(tag, _)] = client.zrange("unacked_index", 0, -1, withscores=True)
    assert list(client.hgetall("unacked")) == [tag]
    client.zadd("unacked_index", {tag: time.time() - 3600})
    other, got = connect()
    other.qos.restore_visible()
    drain(other, lambda: got)
    assert got[0].headers["redelivered"] is True
    got[0].ack()
    assert not client.exists("unacked", "unacked_index", "send")


@pytest.mark.parametrize("ahead", [3600, -3600])
def test_what_is_in_hand_comes_back_by_the_clock_of_redis(
    ahead: int,
    client: redis_client.Redis,
    connect: Callable[[], tuple[Any, list[Any]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker's clock is an hour off, before or after it took a message."""
    for number in range(2):
        publish(tmp_path, number)
    channel, got = connect()
    drain(channel, lambda: len(got) == 1)
    for module in (
        "tasks.runtime.broker.transport.time",
        "tasks.runtime.broker.deliveries.time",
        "kombu.transport.redis.time",
    ):
        monkeypatch.setattr(module, lambda: time.time() + ahead)
    drain(channel, lambda: len(got) == 2)

    # Not before its time
    channel.qos.restore_visible(interval=1)
    noted = client.zrange("unacked_index", 0, -1, withscores=True)
    assert [score for _, score in noted] == [pytest.approx(time.time(), abs=30)] * 2
    assert not client.exists("send")

    # One when its time has come, and one that was noted when Redis's own clock was ahead is not held until then
    (late, _), (early, _) = noted
    client.zadd("unacked_index", {late: time.time() - 30, early: time.time() + 3600})
    channel.qos.restore_visible(interval=1)
    assert client.llen("send") == 1
    assert client.zrange("unacked_index", 0, -1, withscores=True) == [(early, pytest.approx(time.time(), abs=30))]


def test_a_message_wakes_an_idle_worker_at_once(
    client: redis_client.Redis, connect: Callable[[], tuple[Any, list[Any]]], tmp_path: Path
) -> None:
    channel, got = connect()
    waits = []
    for number in range(10):
        drain(channel, lambda: is_waiting(channel) and channel._in_poll)
        began = time.monotonic()
        publish(tmp_path, number)
        drain(channel, lambda so_far=number: len(got) > so_far)
        waits.append(time.monotonic() - began)
    assert sorted(waits)[5] < 0.3, waits  # it waits a second where nobody wakes it
    drain(channel, lambda: is_waiting(channel))
    assert not client.keys("metabuilder:wake:*")


def test_a_message_without_a_token_is_found_within_seconds(
    client: redis_client.Redis, connect: Callable[[], tuple[Any, list[Any]]], tmp_path: Path, redis: RedisServer
) -> None:
    """Of somebody who publishes with kombu's own transport."""
    channel, got = connect()
    drain(channel, lambda: is_waiting(channel))
    with Connection(redis.url + "/0") as own, own.Producer() as producer:
        producer.publish([[], {}, None], routing_key="send", headers={"task": "test.count", "id": "1"})
    drain(channel, lambda: got, 5)


def test_a_full_redis_is_emptied(
    client: redis_client.Redis, connect: Callable[[], tuple[Any, list[Any]]], tmp_path: Path
) -> None:
    """What is delivered takes no more room than what waits, and is delivered: nothing is lost in between."""
    channel, got = connect()
    for number in range(20):
        publish(tmp_path, number)
    client.config_set("maxmemory", "1")
    try:
        with pytest.raises(redis_client.exceptions.ResponseError):
            client.set("more", "data")
        drain(channel, lambda: len(got) == 20)
        for message in got:
            message.ack()
    finally:
        client.config_set("maxmemory", "0")
    assert not client.exists("unacked", "unacked_index", "send")


def envelope(**changes: Any) -> str:
    """A message that Celery would have put there, with this changed; `headers` are added to its own."""
    properties = {"delivery_tag": "t", "delivery_info": {"exchange": "", "routing_key": "send"}}
    whole = {
        "body": base64.b64encode(b"[[], {}, null]").decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "properties": {**properties, "body_encoding": "base64"},
        **changes,
        "headers": {"task": "test.count", "id": "1", **changes.get("headers", {})},
    }
    return json.dumps(whole)


GARBAGE = {
    "no JSON": "no JSON",
    "no message": "[1]",
    "no properties": "{}",
    "a number of Lua's": envelope(headers={"x": 16}).replace("16", "0x10"),
    "a tab in a word": envelope(headers={"x": "TAB"}).replace("TAB", "\t"),
    "a type that nobody knows": envelope(headers={"x": {"__type__": "money", "__value__": "1"}}),
    "a body that cannot be decoded": envelope(body="e30"),
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_what_nobody_can_read_is_put_aside_and_stops_nothing(
    garbage: str,
    client: redis_client.Redis,
    connect: Callable[[], tuple[Any, list[Any]]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    channel, got = connect()
    client.lpush("send", garbage)
    publish(tmp_path, 1)
    drain(channel, lambda: got)
    assert client.hvals("metabuilder:aside") == [f'[{garbage}, "", "send"]']
    [(tag, note)] = aside.notes(client)
    assert (note.code, note.size) == ("message_unreadable", len(garbage))
    assert f"put aside as {tag}" in caplog.text
    assert client.hlen("unacked") == 1


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_what_nobody_can_read_stops_no_worker_after_the_one_that_took_it(
    garbage: str, client: redis_client.Redis, connect: Callable[[], tuple[Any, list[Any]]], tmp_path: Path
) -> None:
    channel, _ = connect()
    client.lpush("send", garbage)
    channel.connection.cycle.on_poll_start()
    wait_until(lambda: client.exists("unacked"), "it is not taken")
    channel.client.connection.disconnect()
    [tag] = client.hgetall("unacked")
    client.zadd("unacked_index", {tag: time.time() - 3600})
    publish(tmp_path, 1)

    other, got = connect()
    other.qos.restore_visible()
    drain(other, lambda: got)
    assert client.hlen("unacked") == 1
    assert not client.exists("send")


def test_words_that_are_no_text_are_delivered(
    client: redis_client.Redis, connect: Callable[[], tuple[Any, list[Any]]]
) -> None:
    channel, got = connect()
    client.lpush("send", envelope(headers={"x": "caf\udce9"}))
    drain(channel, lambda: got)
    assert got[0].headers["x"] == "caf\udce9"


def test_tokens_are_never_more_than_messages(
    client: redis_client.Redis, connect: Callable[[], tuple[Any, list[Any]]], tmp_path: Path
) -> None:
    channel, got = connect()
    for number in range(5):
        publish(tmp_path, number)
    for number in range(50):
        publish(tmp_path, number)
        drain(channel, lambda so_far=number: len(got) > so_far)
        got[number].ack()
    assert client.llen("send") == 5
    assert client.llen(wake_key("send")) <= 6


def test_answers_are_taken_without_a_note(client: redis_client.Redis, tmp_path: Path) -> None:
    """Those to a client, and those that a worker asks for as it starts (mingle), which takes tasks afterwards."""
    with Worker(tmp_path, app=APP, options=("--without-gossip",)) as worker:
        publish(tmp_path, 1)
        wait_until(lambda: list(tmp_path.glob("done-1-*")), "it does not consume")
        assert "mingle: " in worker.log.read_text()
        assert fault_app.app.control.ping(timeout=5)
        client.config_resetstat()
        time.sleep(2.5)
        calls = client.info("commandstats")
        assert calls["cmdstat_eval"]["calls"] >= 2
    assert not client.exists("unacked", "unacked_index")
    assert not client.keys("metabuilder:wake:*")


def test_a_closing_that_broke_off_is_ended(
    client: redis_client.Redis, connect: Callable[[], tuple[Any, list[Any]]], tmp_path: Path
) -> None:
    # Given a message in hand, and a closing that gave up the transport before it came to this channel: Celery closes
    # a broken connection twice, and Redis may be gone the first time
    publish(tmp_path, 1)
    channel, got = connect()
    drain(channel, lambda: got)
    channel.connection.client._do_close_transport()

    # When it is closed again, then nothing is raised, and others find the message after the visibility timeout
    channel.close()
    assert client.zcard("unacked_index") == client.hlen("unacked") == 1
