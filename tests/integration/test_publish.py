"""What is queued many at once is what `.delay()` queues."""

import json
from base64 import b64decode
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis as redis_client
from redis.exceptions import ResponseError

from tasks.runtime.broker import transport
from tasks.runtime.broker.transport import broker_client
from tasks.runtime.publish import publish_many
from tests.support.application import application
from tests.support.servers import RedisServer

CALLS = [("account-1", "tenant-1", "user-1"), ("account 2", "Mandant Süd", 'u"\\3'), ("'", "日本", "100 %(id)s")]


@pytest.fixture
def broker(redis: RedisServer, environment: Callable[..., None]) -> Iterator[redis_client.Redis]:
    environment(REDIS_URL=redis.url)
    with redis_client.Redis(port=redis.port, password=redis.password, decode_responses=True) as client:
        yield client


@pytest.fixture
def task(broker: redis_client.Redis) -> Iterator[Any]:
    with application() as app:
        yield app.tasks["email_service.tasks.sync_emails"]


def queued(broker: redis_client.Redis, key: str) -> list[str]:
    """The messages of a list, oldest first, exactly as they are."""
    return broker.lrange(key, 0, -1)[::-1]


def comparable(raw: str, task_id: str) -> str:
    """A message with what is new in each replaced, still as bytes in their order."""
    message = json.loads(raw)
    own = {message["properties"]["delivery_tag"]: "DELIVERY_TAG", message["headers"]["id"]: "ID"}
    own |= {message["properties"]["reply_to"]: "REPLY_TO", f"{message['due']:.6f}": "DUE"}
    assert message["headers"]["id"] == task_id
    if message["headers"]["expires"]:
        own[message["headers"]["expires"]] = "EXPIRES"
    for value, name in own.items():
        raw = raw.replace(value, name)
    return raw


@pytest.mark.parametrize("options", [{}, {"expires": 270}, {"priority": 9}, {"priority": 3, "expires": 5}])
def test_the_messages_are_those_of_delay(broker: redis_client.Redis, task: Any, options: dict[str, int]) -> None:
    singly = [task.apply_async(call, **options).id for call in CALLS]
    [key] = broker.keys("sync*")
    one_by_one = queued(broker, key)
    broker.delete(key)

    together = publish_many(task, CALLS, **options)

    many = queued(broker, key)
    assert [comparable(*pair) for pair in zip(many, together, strict=True)] == [
        comparable(*pair) for pair in zip(one_by_one, singly, strict=True)
    ]
    assert [json.loads(b64decode(json.loads(raw)["body"]))[0] for raw in many] == [list(call) for call in CALLS]
    # each with an id and a delivery tag of its own
    assert len(set(together)) == len({json.loads(raw)["properties"]["delivery_tag"] for raw in many}) == len(CALLS)


def test_nothing_is_queued_for_nobody(broker: redis_client.Redis, task: Any) -> None:
    assert publish_many(task, []) == []
    assert broker.keys("sync*") == []


def test_a_task_of_nobody_is_refused(broker: redis_client.Redis, task: Any) -> None:
    with pytest.raises(ValueError, match="needs a tenant_id"):
        publish_many(task, [("account", "", "user")])


def test_the_connection_to_redis_is_kept_until_there_is_an_error(
    broker: redis_client.Redis, task: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "_IDLE_SECONDS", 3600)  # however slow the machine is

    def connections() -> int:
        """How many were made to Redis so far."""
        return int(broker.info("stats")["total_connections_received"])

    publish_many(task, CALLS)
    before = connections()
    publish_many(task, CALLS)
    assert connections() == before

    # A Redis that became a replica keeps its connections, and refuses each write over them.
    with pytest.raises(ResponseError), broker_client(task.app) as client:
        client.execute_command("NONESUCH")
    publish_many(task, CALLS)
    assert connections() > before
    [key] = broker.keys("sync*")
    assert broker.llen(key) == 3 * len(CALLS)
