"""Whatever is published to all workers: they go on over the same connection, and log none of its words."""

import base64
import json
from pathlib import Path
from typing import Any

import redis as redis_client
from celery.worker.control import Panel

from tasks.runtime.control import get_active_tasks
from tests.integration.faults.conftest import APP
from tests.support import fault_app
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
            command({**PING, "reply_to": {"exchange": "", "routing_key": "sync"}}),
            command({**PING, "method": "shutdown", "arguments": {"msg": SECRET}}),
            command({**PING, "method": "revoke", "arguments": {"task_id": "x", "terminate": True, "signal": SECRET}}),
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
        assert not client.exists("sync")
        log = worker.log.read_text()
    assert "Traceback" not in log
    assert SECRET not in log
    assert log.count("is no message of remote control") == 1
    assert "4 bytes" in log


ALIASES = ("dump_active", "dump_reserved", "dump_revoked", "dump_schedule", "dump_tasks")
# What no part of this product uses, with arguments that Celery would take.
REFUSED: dict[str, dict[str, Any]] = {
    "add_consumer": {"queue": "another"},
    "autoscale": {"max": 9, "min": 1},
    "cancel_consumer": {"queue": "sync"},
    "clock": {},
    "disable_events": {},
    "dump_conf": {},
    "election": {"id": "1", "topic": "task", "action": {"task": "test.count"}},
    "hello": {"from_node": "another", "revoked": ["x"]},
    "memdump": {},
    "memsample": {},
    "objgraph": {},
    "pool_restart": {"modules": ["os"], "reload": True},
    "query_task": {"ids": ["x"]},
    "rate_limit": {"task_name": "test.count", "rate_limit": "1/h"},
    "report": {},
    "revoke_by_stamped_headers": {"headers": {"a": ["b"]}},
    "terminate": {"signal": "KILL", "task_id": "x"},
    "time_limit": {"task_name": "test.count", "hard": 0.1, "soft": 0.1},
}
WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("ping", {SECRET: 1}, "the message: Extra inputs are not permitted"),
    ("shutdown", {"msg": SECRET}, "the message: Extra inputs are not permitted"),
    ("revoke", {}, "task_id: Field required"),
    ("revoke", {"task_id": "x", "terminate": True, "signal": SECRET}, "signal: Input should be 'TERM', "),
    ("revoke", {"task_id": "x", "terminate": True, "signal": "STOP"}, "signal: Input should be 'TERM', "),
    ("revoke", {"task_id": [str(n) for n in range(21)]}, "task_id"),
    ("revoke", {"task_id": "a\nb"}, "task_id"),
    ("revoke", {"task_id": {"a": SECRET}}, "task_id"),
    ("revoke", {"task_id": "x", "terminate": SECRET}, "terminate: Input should be a valid boolean"),
    ("pool_grow", {"n": 33}, "n: Input should be less than or equal to 32"),
    ("pool_grow", {"n": "many"}, "n: Input should be a valid integer"),
    ("pool_shrink", {"n": -1}, "n: Input should be greater than or equal to 1"),
    ("pool_shrink", {"n": 1}, "at least one process stays"),
    ("active", {"safe": SECRET}, "safe: Input should be a valid boolean"),
    ("registered", {"taskinfoitems": ["app"]}, "taskinfoitems"),
]


def test_a_worker_obeys_only_the_commands_that_the_product_uses(client: redis_client.Redis, tmp_path: Path) -> None:
    control = fault_app.app.control

    def ask(name: str, arguments: dict[str, Any]) -> Any:
        [answer] = control.broadcast(
            name, arguments=arguments, reply=True, limit=1, timeout=30, connection=connection
        )
        return next(iter(answer.values()))

    with Worker(tmp_path, app=APP) as worker, fault_app.app.connection_for_write() as connection:
        once = {"limit": 1, "timeout": 30, "connection": connection}
        wait_until(lambda: client.pubsub_numpat(), "it does not listen")
        before = worker.children()
        for name, arguments in REFUSED.items():
            assert ask(name, arguments)["error"].startswith(f"{name} is refused: workers do not take this command")
        for name, arguments, why in WRONG:
            error = ask(name, arguments)["error"]
            assert error.startswith(f"{name} is refused: ")
            assert why in error
            assert SECRET not in error
        assert worker.children() == before
        log = worker.log.read_text()
        assert SECRET not in log
        assert "Traceback" not in log
        assert log.count("refused a command of remote control") < len(REFUSED)

        assert ask("pool_grow", {"n": 1}) == {"ok": "pool will grow"}
        wait_until(lambda: len(worker.children()) == 2, "it does not grow")
        assert ask("pool_shrink", {"n": 1}) == {"ok": "pool will shrink"}
        assert "ok" in ask("revoke", {"task_id": "x", "terminate": True, "signal": "SIGTERM"})
        for name in ("stats", "conf", "active_queues", "registered", "revoked", "scheduled", "active", "reserved"):
            assert "error" not in getattr(control.inspect(**once), name)().popitem()[1], name
        assert ask("enable_events", {}) == {"ok": "task events already enabled"}
        control.broadcast("shutdown")
        assert worker.wait(30) == 0


def test_every_command_of_celery_is_either_taken_or_refused() -> None:
    """A new version of Celery may bring more."""
    assert {*Panel.data} - {*REFUSED, *ALIASES} == {
        *("ping", "stats", "active", "scheduled", "reserved", "revoked", "registered", "active_queues", "conf"),
        *("enable_events", "heartbeat", "revoke", "shutdown", "pool_grow", "pool_shrink"),
    }


def listening(client: redis_client.Redis) -> set[str]:
    return {found["id"] for found in client.client_list() if found["psub"] != "0"}
