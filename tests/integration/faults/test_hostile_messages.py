"""Whatever bytes are on a queue: the worker that takes them goes on, and what it cannot run is a dead letter."""

import base64
import json
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis as redis_client
from click.testing import CliRunner

from manage import cli, dlq, session
from tasks.runtime.broker import aside
from tests.conftest import TENANT, USER, Database
from tests.integration.faults.conftest import MAX_STOP_SECONDS, SHORT_WAITS, stop
from tests.integration.faults.conftest import broker as connection_to
from tests.support import fault_app
from tests.support.application import application
from tests.support.servers import RedisServer
from tests.support.worker import Worker, peak_memory, wait_until

APP = "tests.support.fault_app:app"
SECRET = "bob@example.net, the words of a mail"


@pytest.fixture
def client(
    redis: RedisServer, database: Database, environment: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> Iterator[redis_client.Redis]:
    environment(REDIS_URL=redis.url, **SHORT_WAITS)
    monkeypatch.setattr(session, "connect", lambda **_: None)
    monkeypatch.setattr(dlq, "connect", lambda **_: None)
    with connection_to(redis) as client, application(fault_app):
        yield client


def encoded(value: object) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


def body(folder: Path | str, number: object = 1) -> list[Any]:
    arguments = [TENANT, USER, str(folder), number]
    return [arguments, {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]


def good(folder: Path, number: int, **headers: object) -> dict[str, Any]:
    """A message as Celery makes it, of the task that counts."""
    task_id = f"good-{number}"
    return {
        "body": encoded(body(folder, number)),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {
            "lang": "py",
            "task": "test.count",
            "id": task_id,
            "shadow": None,
            "eta": None,
            "expires": None,
            "group": None,
            "group_index": None,
            "retries": 0,
            "timelimit": [None, None],
            "root_id": task_id,
            "parent_id": None,
            "argsrepr": SECRET,
            "kwargsrepr": "{}",
            "origin": "somewhere",
            "ignore_result": True,
            "replaced_task_nesting": 0,
            "stamped_headers": None,
            "stamps": {},
            **headers,
        },
        "properties": {
            "correlation_id": task_id,
            "reply_to": "",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "sync"},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": task_id,
        },
    }


def nested(depth: int) -> list[Any]:
    """A list in a list in a list …"""
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


def without(message: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in message.items() if key != name}


# With these the task would be run.
ARGUMENTS = [TENANT, USER, "/nowhere", 1]
FOLLOWING = {"task": "test.count", "args": [], "kwargs": {}, "options": {}, "subtask_type": None}
BAD_FOLLOWERS: dict[str, dict[str, Any]] = {
    "a queue that is a list": {"options": {"queue": [SECRET]}},
    "an id that is a list": {"options": {"task_id": [SECRET]}},
    "a countdown without end": {"options": {"countdown": 1e308}},
    "a compression": {"options": {"compression": SECRET}},
    "a serializer": {"options": {"serializer": "pickle"}},
    "somebody's connection": {"options": {"connection": SECRET}},
    "what follows that": {"options": {"link": [{**FOLLOWING, "options": {"queue": [SECRET]}}]}},
    "a type that is none": {"subtask_type": SECRET},
    "a type that is a list": {"subtask_type": [SECRET]},
    "a chord of nothing": {"subtask_type": "chord"},
}
BAD_BODIES = {
    "a mapping": {"a": SECRET},
    "a list of one": [SECRET],
    "nothing": None,
    "a word": SECRET,
    "arguments that are a word": [SECRET, {}, {}],
    "named arguments that are a list": [[], [SECRET], {}],
    "callbacks that are a number": [ARGUMENTS, {}, {"callbacks": 5}],
    "a chain of words": [ARGUMENTS, {}, {"chain": [SECRET]}],
    "a chord that is a list": [ARGUMENTS, {}, {"chord": [SECRET]}],
    **{
        f"what follows: {name}": [ARGUMENTS, {}, {"callbacks": [{**FOLLOWING, **changed}]}]
        for name, changed in BAD_FOLLOWERS.items()
    },
    "a chain of what cannot follow": [
        ARGUMENTS,
        {},
        {"chain": [{**FOLLOWING, "options": {"expires": {"a": SECRET}}}]},
    ],
    "kombu's own type that is none": [[{"__type__": "money", "__value__": SECRET}], {}, {}],
}
BAD_HEADERS: dict[str, dict[str, Any]] = {
    "a time limit that is a word": {"timelimit": "x"},
    "time limits that are words": {"timelimit": [1, "x"]},
    "one time limit": {"timelimit": [1]},
    "a time limit without end": {"timelimit": [1e308, 1e308]},
    "a time limit below nothing": {"timelimit": [-1, -1]},
    "a time limit in a mapping": {"timelimit": {"a": 1}},
    "an eta that is none": {"eta": "soon"},
    "an eta that is a number": {"eta": 5},
    "an eta that is a list": {"eta": [SECRET]},
    "an eta at the end of time": {"eta": "9999-12-31T23:59:59.999999-14:00"},
    "an eta at its beginning": {"eta": "0001-01-01T00:00:00+14:00"},
    "an expiry that is none": {"expires": "never"},
    "an expiry that is a mapping": {"expires": {"a": SECRET}},
    "an id that is a list": {"id": [SECRET]},
    "an id that is nothing": {"id": None},
    "an id with a NUL": {"id": "a\0b"},
    "an id with half a character": {"id": "a\udce9"},
    "an id of a megabyte": {"id": "x" * 1_000_000},
    "a task that is a list": {"task": [SECRET]},
    "a task that is a mapping": {"task": {"a": SECRET}},
    "a task of Celery's": {"task": "celery.map"},
    "retries without end": {"retries": 10**12},
    "retries that are a word": {"retries": "x"},
    "a compression": {"compression": "application/x-gzip"},
    "a compression that is none": {"compression": "application/x-none"},
    "stamps that are a list": {"stamped_headers": ["a"], "stamps": [SECRET]},
    "stamped headers that are a number": {"stamped_headers": 5},
    "a name that writes lines of its own": {"shadow": "x\n[2026] a line"},
    "a header in the place of a note": {"called_directly": True},
    "a header in the place of a method": {"get": 5},
    "our own header": {"metabuilder_waits": "x"},
    "a group that is a list": {"group": [1]},
    **{f"somebody's lists, {depth} deep": {"other": nested(depth)} for depth in (100, 480, 600, 900)},
    "stamps of lists, 480 deep": {"stamps": {"a": nested(480)}},
}


def hostile(folder: Path) -> dict[str, str]:
    """What is put on the queue, by what it is."""
    message = good(folder, 999)
    wrong: dict[str, Any] = {
        **{f"the body is {name}": {**message, "body": encoded(value)} for name, value in BAD_BODIES.items()},
        **{f"a header: {name}": good(folder, 999, **headers) for name, headers in BAD_HEADERS.items()},
        "the body is no JSON": {**message, "body": base64.b64encode(b"\xff\xfe{").decode()},
        "the body is JSON without end": {**message, "body": base64.b64encode(b"[" * 60_000).decode()},
        "the body is a number without end": {**message, "body": base64.b64encode(b"1" * 60_000).decode()},
        "the body is a list": {**message, "body": [1]},
        "the body is no base64": {**message, "body": "e30"},
        "there is no body": without(message, "body"),
        "the type is none": {**message, "content-type": "application/x-none"},
        "the type is pickle": {**message, "content-type": "application/x-python-serialize"},
        "the type is a list": {**message, "content-type": [1]},
        "the encoding is none": {**message, "content-encoding": "klingon"},
        "the encoding is another": {**message, "content-encoding": "utf-16"},
        "a bomb": {
            **good(folder, 999, compression="application/x-gzip"),
            "body": base64.b64encode(zlib.compress(b"[" + b" " * 190_000_000 + b"]", 9)).decode(),
        },
        "headers are a list": {**message, "headers": [1]},
        "headers are nothing": {**message, "headers": None},
        "headers are empty": {**message, "headers": {}},
        "there are no headers": without(message, "headers"),
        "a property of lists, 480 deep": {**message, "properties": {**message["properties"], "other": nested(480)}},
        "arguments of lists, 480 deep": {**message, "body": encoded(body(folder, nested(480)))},
        "properties are a list": {**message, "properties": [1]},
        "there are no properties": without(message, "properties"),
        "delivery information is a word": {**message, "properties": {"delivery_info": "x"}},
        "a routing key is a list": {**message, "properties": {"delivery_info": {"routing_key": [1]}}},
        "an id to answer is a list": {**message, "properties": {**message["properties"], "correlation_id": [1]}},
        "it is a list": [message],
        "it is a number": 5,
        "arguments of other types": {**message, "body": encoded([[5, [], {}, None], {}, None])},
        "the first protocol": {
            **message,
            "headers": {},
            "body": encoded({"task": "test.count", "id": "1", "args": [TENANT, USER, str(folder), 999]}),
        },
    }
    return {name: json.dumps(value) for name, value in wrong.items()} | {
        "it is empty": "",
        "it is no text": "\udcff\udcfe",
        "it is no JSON": "{" + SECRET,
        "it is JSON without end": "[" * 60_000,
        "it closes a list": f"{json.dumps(message)}, 1], [",
    }


def done(folder: Path) -> set[int]:
    return {int(path.name.split("-")[1]) for path in folder.glob("done-*")}


def test_nothing_on_a_queue_ends_or_stops_a_worker(
    client: redis_client.Redis, redis: RedisServer, tmp_path: Path
) -> None:
    everything = hostile(tmp_path)
    raw = redis_client.Redis(port=redis.port, password=redis.password)
    with Worker(tmp_path, app=APP) as worker, raw:
        pid, [child] = worker.pid, worker.children()
        for number, text in enumerate(everything.values()):
            raw.lpush("sync", text.encode("utf-8", "surrogateescape"))
            raw.lpush("sync", json.dumps(good(tmp_path, number)))

        # Every good one is done, by the processes that were there before.
        wait_until(lambda: done(tmp_path) == set(range(len(everything))), "some are not done", 60)
        wait_until(lambda: not client.exists("unacked", "unacked_index"), "something comes back for ever")
        assert psutil.pid_exists(pid)
        assert worker.children() == [child]
        assert stop(worker) < MAX_STOP_SECONDS
        log = worker.log.read_text()

    assert SECRET not in log
    assert "Traceback" not in log
    assert log.count("was put aside") == len(everything)
    notes = json.loads(CliRunner().invoke(cli.main, ["dlq", "list", "--json"]).stdout)
    assert {note["error_code"] for note in notes} == {"message_unreadable"}
    assert len(notes) == len(everything)
    # None that a worker would take; each is shown, and without its words.
    for note in notes:
        shown = CliRunner().invoke(cli.main, ["dlq", "show", note["id"]])
        assert shown.exit_code == 0, shown.output
        assert SECRET not in shown.output
    retried = CliRunner().invoke(cli.main, ["dlq", "retry", "--all"])
    assert "0 queued again" in retried.stderr, retried.output
    assert CliRunner().invoke(cli.main, ["dlq", "retry", notes[0]["id"]]).exit_code == 1
    assert client.llen("sync") == 0
    assert CliRunner().invoke(cli.main, ["dlq", "drop", "--all", "--yes"]).exit_code == 0
    assert json.loads(CliRunner().invoke(cli.main, ["dlq", "list", "--json"]).stdout) == []
    assert not client.keys("metabuilder:aside*")


def test_notes_that_are_none_stop_neither_a_worker_nor_the_commands(
    client: redis_client.Redis, tmp_path: Path
) -> None:
    note = {"code": "task_unknown", "error": "e", "task_name": None, "task_id": None, "size": 1, "at": 1}
    odd = [
        "[" * 60_000,
        "{",
        *(json.dumps({**note, "at": at}) for at in ("x", 1e300, -1e300, float("nan"), float("inf"), None)),
        *(json.dumps({**note, "code": code}) for code in ("another", 5, ["task_unknown"])),
        json.dumps({**note, "error": "\udce9"}),
    ]
    for number, text in enumerate(odd):
        client.hset("metabuilder:aside:notes", f"odd-{number}", text)
        client.zadd("metabuilder:aside:unknown", {f"odd-{number}": time.time()})
    # A message that is good, of a queue that is none.
    client.hset("metabuilder:aside", "odd-0", json.dumps([good(tmp_path, 2), "", ["sync"]]))
    with Worker(tmp_path, app=APP) as worker:
        client.lpush("sync", json.dumps(good(tmp_path, 1)))
        wait_until(lambda: done(tmp_path) == {1}, "it does not begin")
        assert "Traceback" not in worker.log.read_text()

    listed = CliRunner().invoke(cli.main, ["dlq", "list", "--json"])
    assert listed.exit_code == 0, listed.output
    assert {letter["id"] for letter in json.loads(listed.stdout)} == {f"odd-{n}" for n in range(len(odd))}
    assert CliRunner().invoke(cli.main, ["dlq", "show", "odd-0"]).exit_code == 0
    assert aside.delete_old(client, 3600) == 1  # -1e300: long ago
    assert CliRunner().invoke(cli.main, ["dlq", "drop", "--all", "--yes"]).exit_code == 0
    assert not client.keys("metabuilder:aside*")


def test_one_that_is_too_large_is_never_taken_into_memory(client: redis_client.Redis, tmp_path: Path) -> None:
    # One was taken by a worker that died before it put it aside.
    client.hset("unacked", "taken", "x" * 150_000_001)
    client.zadd("unacked_index", {"taken": 1})
    with Worker(tmp_path, app=APP) as worker:
        before = peak_memory(worker.pid)
        client.lpush("sync", "x" * 150_000_000)
        client.lpush("sync", json.dumps(good(tmp_path, 1)))
        wait_until(lambda: done(tmp_path) == {1}, "it does not go on")
        # On a slow machine the test's client gives up waiting for an answer, and sends the large one again.
        wait_until(lambda: client.hlen("metabuilder:aside:notes") >= 2, "some are not put aside")
        wait_until(lambda: not client.exists("sync", "unacked", "unacked_index"), "some are still to be put aside")
        assert peak_memory(worker.pid) - before < 20_000_000
    notes = json.loads(CliRunner().invoke(cli.main, ["dlq", "list", "--json"]).stdout)
    assert len(notes) >= 2
    assert all(" bytes are too many" in note["error"] for note in notes)


def test_one_that_would_be_too_large_is_not_queued(client: redis_client.Redis) -> None:
    args = (TENANT, USER, "folder", "slow", "x" * (100 * 1024 * 1024))
    with pytest.raises(ValueError, match=r"139,\d+,\d+ bytes"):
        fault_app.fault.apply_async(args, queue="sync", ignore_result=True)
    assert not client.exists("sync")


def test_what_a_publisher_shows_of_its_arguments_is_not_shown(client: redis_client.Redis, tmp_path: Path) -> None:
    args = (TENANT, USER, str(tmp_path), "slow", SECRET)
    with Worker(tmp_path, app=APP):
        message = good(tmp_path, 1, task="test.fault")
        client.lpush("sync", json.dumps({**message, "body": encoded([args, {}, None])}))
        wait_until(lambda: fault_app.runs(tmp_path), "it is not begun")
        [[active]] = fault_app.app.control.inspect(timeout=5).active().values()  # as Flower asks
    assert SECRET not in json.dumps(client.lrange("sync", 0, -1))
    assert active["id"] == "good-1"
    assert SECRET not in str(active)
    assert f"<{len(SECRET)} characters>" in str(active)


def test_a_task_of_the_next_release_waits_for_a_worker_that_knows_it(
    client: redis_client.Redis, tmp_path: Path
) -> None:
    """Two real workers, one of a release that lacks the task `test.count`."""
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    with Worker(old) as old_worker:
        for number in range(20):
            fault_app.count.apply_async((TENANT, USER, str(tmp_path), number), queue="sync", ignore_result=True)
        wait_until(lambda: client.hlen("metabuilder:aside") == 20, "they are not put aside")
        # It neither spins nor blocks: nothing is left to take, and Redis is asked no more than by an idle worker.
        assert client.llen("sync") == 0
        client.config_resetstat()
        time.sleep(3)
        assert client.info("commandstats")["cmdstat_eval"]["calls"] < 20
        listed = CliRunner().invoke(cli.main, ["dlq", "list"]).stdout
        assert "task_unknown" in listed
        assert "test.count" in json.dumps(client.hgetall("metabuilder:aside:notes"))

        with Worker(new, app=APP):
            for number in range(20, 40):
                fault_app.count.apply_async((TENANT, USER, str(tmp_path), number), queue="sync", ignore_result=True)
            # Those that the old worker is quicker to take are found with the next look of the new one.
            wait_until(lambda: done(tmp_path) == set(range(40)), "some are lost")
            wait_until(lambda: not client.exists("unacked"), "something comes back")
        assert old_worker.children()
        assert "Traceback" not in old_worker.log.read_text()
    assert len(list(tmp_path.glob("done-*"))) == 40
    assert not client.keys("metabuilder:aside*")


def test_what_the_next_release_knows_is_not_logged(client: redis_client.Redis, tmp_path: Path) -> None:
    """Neither arguments of a task that is known, nor a task that is not."""
    more = [[TENANT, USER, str(tmp_path), 1], {"colour": SECRET}, None]
    client.lpush("sync", json.dumps({**good(tmp_path, 1), "body": encoded(more)}))
    other = [[TENANT, USER, SECRET], {"words": SECRET}, None]
    client.lpush("sync", json.dumps({**good(tmp_path, 2, task="test.another"), "body": encoded(other)}))
    with Worker(tmp_path, app=APP) as worker:
        wait_until(lambda: client.zcard("metabuilder:aside:unknown") == 2, "they are not put aside")
        assert not client.exists("sync")
        assert SECRET not in worker.log.read_text()
    notes = json.dumps(client.hgetall("metabuilder:aside:notes"))
    assert "test.another" in notes
    assert SECRET not in notes


def test_a_task_that_nobody_came_to_know_stays_aside(client: redis_client.Redis, tmp_path: Path) -> None:
    fault_app.count.apply_async((TENANT, USER, str(tmp_path), 1), queue="sync", ignore_result=True)
    (tmp_path / "old").mkdir()
    with Worker(tmp_path / "old"):
        wait_until(lambda: client.zcard("metabuilder:aside:unknown") == 1, "it is not put aside")
    [tag] = client.zrange("metabuilder:aside:unknown", 0, -1)
    client.zincrby("metabuilder:aside:unknown", -25 * 3600, tag)
    with Worker(tmp_path, app=APP):
        time.sleep(1)
        assert done(tmp_path) == set()
        assert not client.exists("metabuilder:aside:unknown")

        # Until somebody says so.
        retried = CliRunner().invoke(cli.main, ["dlq", "retry", tag])
        assert retried.exit_code == 0, retried.output
        wait_until(lambda: done(tmp_path) == {1}, "it is not done")
    assert not client.keys("metabuilder:aside*")
