"""Events that anybody may publish: those of workers pass, and what would end or mislead their receiver does not."""

import json
import time
from typing import Any

import pytest
from celery.events.state import State

from tasks.runtime.broker.fanout import Sieve

SECRET = "bob@example.net, the words of a mail"
HEARTBEAT: dict[str, Any] = {
    "type": "worker-heartbeat",
    "hostname": "worker@host",
    "timestamp": time.time(),
    "utcoffset": -1,
    "clock": 5,
    "pid": 77,
    "freq": 2.0,
    "active": 1,
    "processed": 12,
    "loadavg": [0.5, 1, 2.25],
    "sw_ident": "py-celery",
    "sw_ver": "5",
    "sw_sys": "Linux",
}
RECEIVED: dict[str, Any] = {
    "type": "task-received",
    "uuid": "an id",
    "hostname": "worker@host",
    "timestamp": time.time(),
    "utcoffset": 0,
    "clock": 6,
    "pid": 77,
    "name": "email_service.tasks.sync_emails",
    "args": "('<3 characters>',)",
    "kwargs": "{}",
    "root_id": "an id",
    "parent_id": None,
    "retries": 0,
    "eta": "2026-01-01T00:00:00+00:00",
    "expires": None,
}
GOOD: list[Any] = [
    HEARTBEAT,
    RECEIVED,
    [RECEIVED, {**RECEIVED, "type": "task-started"}],
    {**RECEIVED, "type": "task-succeeded", "result": "'x'", "runtime": 0.25},
    {**RECEIVED, "type": "task-failed", "exception": "E()", "traceback": "T"},
    {**RECEIVED, "type": "task-revoked", "terminated": True, "signum": "15", "expired": False},
    {**RECEIVED, "type": "task-sent", "queue": "sync", "exchange": "", "routing_key": "sync"},
    {**HEARTBEAT, "what a later release adds": [1]},
]


def without(event: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key != name}


BAD: list[Any] = [
    *(None, 5, SECRET, {}, [5], [HEARTBEAT, SECRET]),
    *(
        {name: value for name, value in HEARTBEAT.items() if name != left}
        for left in ("type", "hostname", "timestamp")
    ),
    {name: value for name, value in RECEIVED.items() if name != "uuid"},
    *({**HEARTBEAT, "type": odd} for odd in (5, None, SECRET, "worker", "other-heartbeat", ["worker-online"])),
    *({**HEARTBEAT, "hostname": odd} for odd in (5, None, "", "a\nb", "x" * 600, [SECRET])),
    *({**HEARTBEAT, "timestamp": odd} for odd in (None, "now", -1, 1e300, float("nan"), float("inf"))),
    *({**HEARTBEAT, "utcoffset": odd} for odd in ("x", 1e9, float("nan"))),
    *({**HEARTBEAT, "clock": odd} for odd in ("x", -1, 2**70, 1.5)),
    *({**HEARTBEAT, "freq": odd} for odd in ("x", -1, 1e300)),
    *({**HEARTBEAT, "active": odd} for odd in ("x", -1, [1])),
    {**HEARTBEAT, "loadavg": ["x"]},
    *({**HEARTBEAT, name: SECRET} for name in ("heartbeats", "event", "alive", "id", "_fields", "__class__")),
    *({**RECEIVED, "uuid": odd} for odd in (5, [SECRET], {"a": 1}, "")),
    *({**RECEIVED, "retries": odd} for odd in ("x", -1, 10**9)),
    *({**RECEIVED, "eta": odd} for odd in (5, SECRET, "9999-12-31T23:59:59-14:00")),
    *({**RECEIVED, "runtime": odd} for odd in ("x", -1, 1e300)),
    *({**RECEIVED, "root_id": odd} for odd in ([SECRET], "a\0b")),
    *({**RECEIVED, "kwargs": odd} for odd in (5, {"a": SECRET})),
    *({**RECEIVED, name: SECRET} for name in ("state", "worker", "children", "received", "cluster_state", "info")),
]


def published(body: object) -> bytes:
    """A message with this body, as a worker publishes it."""
    message = {
        "body": json.dumps(body),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"hostname": "worker@host"},
        "properties": {"delivery_tag": "a tag", "delivery_info": {}},
    }
    return json.dumps(message).encode()


def passed(body: object) -> Any:
    """What is left of a message with this body."""
    channel = b"/0.celeryev/worker.heartbeat"
    return Sieve()({"type": b"pmessage", "pattern": channel, "channel": channel, "data": published(body)})["data"]


@pytest.mark.parametrize("body", GOOD)
def test_what_workers_tell_passes_and_is_understood(body: Any) -> None:
    assert passed(body)
    state, events = State(), body if isinstance(body, list) else [body]
    for event in events:
        state.event({**event, "local_received": time.time()})
    assert state.event_count == len(events)


@pytest.mark.parametrize("body", BAD, ids=range(len(BAD)))
def test_anything_else_is_dropped_without_its_words(body: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert passed(body) is None
    assert SECRET not in caplog.text
