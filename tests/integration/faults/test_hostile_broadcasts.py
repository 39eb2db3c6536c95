"""Whatever is published to all workers: they go on over the same connection, and log none of its words."""

import base64
import json
from pathlib import Path
from typing import Any

import redis as redis_client

from tasks.runtime.control import get_active_tasks
from tests.integration.faults.conftest import APP
from tests.support.worker import Worker, wait_until

SECRET = "bob@example.net, the words of a mail"
TOPIC = "/0.celery.pidbox"


def command(body: Any, /, **changed: Any) -> dict[str, Any]:
    """A command as Celery publishes it."""
    return {
        "body": base64.b64encode(body if isinstance(body, bytes) else json.dumps(body).encode()).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"clock": 1},
        "properties": {"delivery_tag": "a tag", "body_encoding": "base64", "delivery_info": {}},
        **changed,
    }


def nested(depth: int) -> list[Any]:
    return json.loads("[" * depth + "]" * depth)  # type: ignore[no-any-return]


PING: dict[str, Any] = {"method": "ping", "arguments": {}, "destination": None, "pattern": None, "matcher": None}
ODD: list[Any] = [
    *("null", '"x"', "5", "[1]", "{}", '{"body":1}', f"garbage {SECRET}", "[" * 60_000, "9" * 5000, b"\xff\xfe"),
    *(
        json.dumps(message)
        for message in (
            nested(500),
            *map(command, (None, 5, [SECRET], SECRET, {}, {"method": SECRET}, {"method": [SECRET]})),
            command(SECRET.encode()),
            command(b"[" * 60_000),
            command(b"\xff"),
            command({**PING, "arguments": {SECRET: 1}}),
            command({**PING, "arguments": {"x": nested(500)}}),
            command({**PING, "destination": 5}),
            command({**PING, "pattern": SECRET, "matcher": "pcre"}),
            command({**PING, "reply_to": SECRET}),
            command({**PING, "method": "revoke", "arguments": {"task_id": nested(500)}}),
            command(PING, body=SECRET),
            command(PING, headers=[SECRET]),
            command(PING, headers={"clock": SECRET}),
            command(PING, headers={"compression": "application/x-gzip"}),
            command(PING, properties=SECRET),
            command(PING, properties={}),
            command(PING, **{"content-type": "application/x-python-serialize"}),
            command(PING, **{"content-encoding": "klingon"}),
        )
    ),
]


def test_nothing_that_is_published_ends_a_worker_or_is_logged(client: redis_client.Redis, tmp_path: Path) -> None:
    with Worker(tmp_path, app=APP) as worker:
        wait_until(lambda: client.pubsub_numpat(), "it does not listen")
        children, listeners = worker.children(), listening(client)
        for odd in ODD:
            client.publish(TOPIC, odd)
        assert list(get_active_tasks().values()) == [[]]
        assert worker.children() == children
        assert listening(client) == listeners
        log = worker.log.read_text()
    assert "Traceback" not in log
    assert SECRET not in log
    assert log.count("is no message of remote control") == 1
    assert "4 bytes" in log


def listening(client: redis_client.Redis) -> set[str]:
    return {found["id"] for found in client.client_list() if found["psub"] != "0"}
