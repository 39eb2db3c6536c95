"""What became of the messages in hand reaches the broker, whoever settles them and in whatever moment."""

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
import redis as redis_client

from tasks.runtime.broker import deliveries
from tasks.runtime.consumer import Consumer
from tests.integration.faults.conftest import drain, publish

LARGE, LARGE_BYTES = 10, 1_000_000

Connect = Callable[[], tuple[Any, list[Any]]]


def test_a_signal_in_the_midst_of_telling_settles_another_message(
    client: redis_client.Redis, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Celery's handler of SIGQUIT reads results and acknowledges them, in the thread that it interrupts."""
    publish(tmp_path, range(2), queue="send", ignore_result=True)
    channel, got = connect()
    drain(channel, lambda: len(got) == 2)
    assert channel.qos.in_hand == 2
    ask = channel.qos._delete_and_read

    def interrupted(*tags: Any) -> Any:
        monkeypatch.undo()
        got[1].ack()
        return ask(*tags)

    monkeypatch.setattr(channel.qos, "_delete_and_read", interrupted)
    telling = Thread(target=got[0].ack, daemon=True)
    telling.start()
    telling.join(10)
    assert not telling.is_alive()
    assert not client.exists("unacked", "unacked_index", "send")
    assert channel.qos.in_hand == 0, "a worker at rest would report them as reserved"


def test_a_stop_tells_what_is_owed_where_nothing_is_in_hand(
    client: redis_client.Redis, connect: Connect, tmp_path: Path
) -> None:
    """Such as the last acknowledgement, put off because Redis was slow to take the one before."""
    publish(tmp_path, [0], queue="send", ignore_result=True)
    channel, got = connect()
    drain(channel, lambda: got)
    channel.qos.owe(got[0].delivery_tag, requeue=False)
    stopping = Consumer.__new__(Consumer)
    connection = channel.connection.client
    stopping.__dict__.update(
        connection=connection,
        connection_errors=connection.connection_errors,
        channel_errors=connection.channel_errors,
        blueprint=SimpleNamespace(shutdown=lambda _: None),
        hub=None,
        _pending_operations=[],
        _deliveries=channel.qos,
    )
    stopping.shutdown()
    assert not client.exists("unacked", "unacked_index", "send")


def test_a_message_is_given_back_to_no_table(client: redis_client.Redis, connect: Connect, tmp_path: Path) -> None:
    """Its entry, in which somebody wrote, names a key that is no queue: the table of all messages in hand."""
    publish(tmp_path, range(2), queue="send", ignore_result=True)
    channel, got = connect()
    drain(channel, lambda: len(got) == 2)
    message, exchange, _ = json.loads(client.hvals("unacked")[0])
    client.hset("unacked", "odd", json.dumps([message, exchange, "unacked"]))
    client.zadd("unacked_index", {"odd": 1})
    channel.qos.restore_visible(interval=1)
    assert client.hlen("unacked") == 2
    assert client.hkeys("metabuilder:aside") == ["odd"]


def test_large_messages_are_given_back_in_parts(
    client: redis_client.Redis, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel, got = connect()
    for number in range(LARGE):
        publish(tmp_path, [number], queue="send", ignore_result=True, headers={"filler": "x" * LARGE_BYTES})
    drain(channel, lambda: len(got) == LARGE)
    monkeypatch.setattr(deliveries, "_MAX_AT_ONCE", int(1.5 * LARGE_BYTES))
    tracemalloc.start()
    got[0].ack()
    channel.qos.restore_unacked_once()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * LARGE_BYTES
    assert not client.exists("unacked", "unacked_index")
    ids = [json.loads(message)["headers"]["id"] for message in reversed(client.lrange("send", 0, -1))]
    assert ids == [message.headers["id"] for message in got[1:]]


@pytest.mark.parametrize("table", ["unacked", "unacked_index"])
def test_a_table_of_another_type_is_renamed(
    table: str, client: redis_client.Redis, connect: Connect, tmp_path: Path
) -> None:
    publish(tmp_path, [0], queue="send", ignore_result=True)
    channel, got = connect()
    drain(channel, lambda: got)
    client.delete(table)
    client.set(table, "words")
    got[0].ack_log_error(None, None)
    channel.qos.tell_what_is_owed()
    assert not channel.qos.owed
    assert client.get(f"{table}:of-another-type") == "words"
