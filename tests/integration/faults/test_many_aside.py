"""Thousands of messages of the next release are aside: a worker looks through them in parts, one question each."""

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import redis as redis_client

from tasks.registry import QUEUES
from tasks.runtime import search
from tasks.runtime.broker import aside
from tests.integration.faults.conftest import APP
from tests.integration.faults.test_hostile_messages import body, encoded, good
from tests.support import fault_app
from tests.support.worker import Worker, wait_until

NEXT = "test.next_release"


def put_aside(client: redis_client.Redis, messages: Iterable[dict[str, Any]]) -> None:
    """In this order, as other workers would: before the worker under test looks."""
    with client.pipeline(transaction=False) as pipe:
        for number, message in enumerate(messages):
            name = message["headers"]["task"]
            note = aside.Note(code="task_unknown", error="", task_name=name, task_id="id", size=1, at=time.time())
            pipe.hset("metabuilder:aside", f"tag-{number}", json.dumps([message, "", "sync"]))
            pipe.hset("metabuilder:aside:notes", f"tag-{number}", note.model_dump_json())
            pipe.zadd("metabuilder:aside:unknown", {f"tag-{number}": int(time.time()) - 3600 + number / 1000})
        pipe.execute()


def of_other_arguments(folder: Path, number: int) -> dict[str, Any]:
    return {**good(folder, number), "body": encoded([body(folder, number)[0], {"colour": "blue"}, None])}


def looks_until_found(client: redis_client.Redis, tag: str) -> int:
    """How often a worker's search looks until it has found this message."""
    its_search = search.Search(fault_app.app)
    for look in range(1, 100):
        client.config_resetstat()
        found = its_search.look(client, 24, QUEUES)
        calls = {name: stats["calls"] for name, stats in client.info("commandstats").items()}
        assert calls["cmdstat_eval"] == 1
        assert calls["cmdstat_hstrlen"] <= 501
        assert "cmdstat_hgetall" not in calls
        if tag in found:
            return look
    raise AssertionError("it is not found")


def test_a_worker_asks_once_for_many(client: redis_client.Redis, tmp_path: Path) -> None:
    put_aside(client, [*(good(tmp_path, n, task=NEXT) for n in range(1200)), good(tmp_path, 1)])
    before = client.info("stats")["total_reads_processed"]
    with Worker(tmp_path, app=APP):
        wait_until(lambda: list(tmp_path.glob("done-1-*")), "it does not find the one that it can run")
        assert client.info("stats")["total_reads_processed"] - before < 600
    assert client.zcard("metabuilder:aside:unknown") == 1200


def test_each_part_is_bounded(client: redis_client.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_aside(client, [*(good(tmp_path, n, task=NEXT) for n in range(1200)), good(tmp_path, 1)])
    assert looks_until_found(client, "tag-1200") == 3

    # Messages of a task that this release knows, with arguments that it does not know, are decoded and checked
    checked: list[object] = []
    judge = search.admit_raw
    monkeypatch.setattr(search, "admit_raw", lambda app, raw: (checked.append(raw), judge(app, raw)))
    client.flushdb()
    put_aside(client, [*(of_other_arguments(tmp_path, n) for n in range(250)), good(tmp_path, 1)])
    assert looks_until_found(client, "tag-250") == 3
    assert len(checked) == 251

    # Large ones come one at a time
    monkeypatch.setattr(search, "_MAX_CHECKED_BYTES", 100)
    client.flushdb()
    put_aside(client, [*(of_other_arguments(tmp_path, n) for n in range(3)), good(tmp_path, 1)])
    assert looks_until_found(client, "tag-3") == 4


def test_what_is_taken_or_gone_moves_the_place(client: redis_client.Redis, tmp_path: Path) -> None:
    put_aside(client, (good(tmp_path, n) for n in range(250)))
    client.hdel("metabuilder:aside", *(f"tag-{n}" for n in range(0, 250, 5)))
    its_search, taken = search.Search(fault_app.app), []
    while found := its_search.look(client, 24, QUEUES):
        aside.drop(client, *found)
        taken += found
    assert len(taken) == len(set(taken)) == 200
    assert not client.exists("metabuilder:aside:unknown")

    # At the end the search pauses, and then begins again
    put_aside(client, [good(tmp_path, 1)])
    assert not its_search.look(client, 24, QUEUES)
    its_search._not_before = 0
    assert list(its_search.look(client, 24, QUEUES)) == ["tag-0"]
    # Of the queues that its worker does not consume it takes none
    its_search._not_before = 0
    assert not its_search.look(client, 24, ["send"])


@pytest.mark.parametrize("key", aside.KEYS)
def test_a_key_of_another_type_is_renamed(key: str, client: redis_client.Redis, tmp_path: Path) -> None:
    put_aside(client, [good(tmp_path, 1)])
    client.delete(key)
    client.set(key, "words")
    search.Search(fault_app.app).look(client, 24, QUEUES)
    assert client.get(f"{key}:of-another-type") == "words"
