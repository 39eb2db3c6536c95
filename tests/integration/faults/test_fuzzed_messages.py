"""Messages that nobody thought of, among good ones: the worker ends with all of the good ones done."""

import base64
import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis as redis_client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Database
from tests.integration.faults.conftest import SHORT_WAITS
from tests.integration.faults.test_hostile_messages import APP, done, good, nested
from tests.support import fault_app
from tests.support.application import application
from tests.support.servers import RedisServer
from tests.support.worker import Worker, wait_until

EXAMPLES = 150
# Hostile messages between two good ones, and how many are sent before it is looked whether the good ones are done.
IN_A_ROW = 3
WORD = "zaunkoenig"  # in the body of each message, and nowhere else
LOOK_EVERY = 30
EVERYTHING = settings(derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))

words = st.text(max_size=20) | st.sampled_from(["", "x" * 100_000, "\0", "\udce9", "id", "1", "-1", "NaN", "utf-8"])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | words | st.just(10**400)
# Up to 900 levels can still be written as JSON in this process.
deep = st.sampled_from([50, 63, 64, 100, 330, 480, 600, 900]).map(nested)
values = deep | st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4)
)
# Where in a message something else is put. A name that no message has adds a header, a property, a part.
names = st.sampled_from(
    [
        ("headers",),
        ("properties",),
        ("body",),
        ("content-type",),
        ("content-encoding",),
        ("properties", "delivery_info"),
        ("properties", "delivery_info", "routing_key"),
        ("properties", "priority"),
        ("properties", "body_encoding"),
        ("properties", "correlation_id"),
        *(("headers", name) for name in good(Path(), 0)["headers"]),
        *(("headers", name) for name in ("compression", "chord", "chain", "errbacks", "callbacks", "priority")),
        *(("headers", name) for name in ("delivery_info", "is_eager", "reply_to", "metabuilder_sync")),
    ]
)


def planted(value: Any) -> Any:
    """With the word in it, where it can hold words."""
    match value:
        case str():
            return value + WORD
        case list():
            return [*value, WORD]
        case dict():
            return {**value, WORD: WORD}
    return value


with_word = values.map(planted)
bodies = st.binary(max_size=200).map(lambda octets: octets + WORD.encode()) | with_word.map(
    lambda value: json.dumps(value).encode()
)
# What is around the arguments is as it should be; they, and what is to follow the task, are not.
signatures = st.dictionaries(st.sampled_from(["task", "args", "kwargs", "options", "subtask_type"]), values)
follows = st.dictionaries(
    st.sampled_from(["callbacks", "errbacks", "chain", "chord"]),
    values | signatures | st.lists(signatures, max_size=2),
)


@st.composite
def messages(draw: st.DrawFn, folder: Path) -> bytes:
    """Bytes of any kind, or a good message with some of it changed; a folder with the word in its name is for those
    that are still good.
    """
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=300)) + WORD.encode()
    message = copy.deepcopy(good(folder, 0))
    kind = draw(st.sampled_from(["places", "body", "arguments", "cut"]))
    if kind == "places":
        for path in draw(st.lists(names, min_size=1, max_size=3)):
            put(message, path, draw(with_word if path == ("body",) else values))
    elif kind == "body":
        message["body"] = base64.b64encode(draw(bodies)).decode()
    elif kind == "arguments":
        arguments = draw((values | st.lists(values, max_size=6)).map(planted)), draw(values), draw(values | follows)
        message["body"] = base64.b64encode(json.dumps(arguments).encode()).decode()
    text = json.dumps(message).encode()
    return text[: draw(st.integers(0, len(text)))] if kind == "cut" else text


def in_base64(word: str) -> list[str]:
    """The characters that stand for it alone, wherever it begins."""
    return [base64.b64encode(f"{'x' * before}{word}".encode()).decode()[4:12] for before in range(3)]


def put(message: Any, path: tuple[str, ...], value: object) -> None:
    *parents, last = path
    for name in parents:
        message = message.get(name) if isinstance(message, dict) else None
    if isinstance(message, dict):
        message[last] = value


@pytest.fixture
def client(redis: RedisServer, database: Database, environment: Callable[..., None]) -> Iterator[redis_client.Redis]:
    environment(REDIS_URL=redis.url, **SHORT_WAITS)
    with redis_client.Redis(port=redis.port, password=redis.password) as client, application(fault_app):
        yield client


def test_no_message_keeps_a_worker_from_the_good_ones(client: redis_client.Redis, tmp_path: Path) -> None:
    sent = good_ones = 0

    def are_done() -> bool:
        return done(tmp_path) >= set(range(1, good_ones + 1))

    (folder := tmp_path / WORD).mkdir()
    with Worker(tmp_path, app=APP) as worker:
        pid, children = worker.pid, worker.children()

        @settings(EVERYTHING, max_examples=EXAMPLES)
        @given(messages(folder))
        def throw(message: bytes) -> None:
            nonlocal sent, good_ones
            sent += 1
            client.lpush("sync", message)
            if sent % IN_A_ROW == 0:
                good_ones += 1
                client.lpush("sync", json.dumps(good(tmp_path, good_ones)))
            if sent % LOOK_EVERY == 0:
                wait_until(are_done, f"stopped before {sent}: {message!r}", 10)

        throw()
        wait_until(are_done, "some good ones are not done")
        assert sent >= EXAMPLES
        assert (worker.pid, worker.children()) == (pid, children)
        assert worker.log.read_text().count(" ready.") == 1
        wait_until(lambda: not client.exists("unacked", "unacked_index", "sync"), "something comes back for ever")
        assert client.hlen("metabuilder:aside") > EXAMPLES / 2
        log = worker.log.read_text()
        assert not [form for form in (WORD, *in_base64(WORD)) if form in log]
