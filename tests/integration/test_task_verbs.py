"""The verbs for tasks and workers, with a real worker on a real Redis and PostgreSQL."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis as redis_client
from click.testing import CliRunner, Result

from manage import cli, queue, session
from manage.site_checks import check_site
from native.state import ROOT
from native.stores import names_run
from tasks.monitoring.readings import rates
from tasks.monitoring.report import TTL_SECONDS, WORKERS, Child, Report, Work, report_key, tell
from tasks.registry import CHECK_SPAM, QUEUES, TASKS
from tasks.runtime import revocations
from tasks.runtime.broker.clock import redis_now
from tasks.storage.dead_letters import Failure, bury
from tests.conftest import TENANT, USER, Database
from tests.support import fault_app
from tests.support.application import application
from tests.support.servers import RedisServer
from tests.support.worker import Worker, wait_until

APP = "tests.support.fault_app:app"
SENT = "\x1b]0;owned\x07\x9b2J\u202e[bold]"
MAIL = "somebody's mail, bob@example.net"


@pytest.fixture
def client(
    redis: RedisServer, database: Database, environment: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> Iterator[redis_client.Redis]:
    # Two messages for a worker of one process: one task is at work, one is reserved.
    environment(REDIS_URL=redis.url, CELERY_WORKER_PREFETCH_MULTIPLIER="2")
    monkeypatch.setattr(session, "IS_HOST", True)  # the environment is that of the test
    with redis_client.Redis(port=redis.port, password=redis.password) as client, application(fault_app):
        yield client


def run(*arguments: str, given: str = "", code: int = 0) -> Result:
    done = CliRunner().invoke(cli.main, arguments, input=given)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code == code, done.output
    assert not set(done.output) & set(SENT[:1] + "\x07\x9b\u202e")
    return done


def of(*arguments: str, code: int = 0) -> Any:
    return json.loads(run(*arguments, "--json", code=code).stdout)


def publish(folder: Path, what: str, **options: object) -> str:
    folder.mkdir(exist_ok=True)
    return str(fault_app.fault.apply_async((TENANT, USER, str(folder), what, MAIL), queue="sync", **options).id)


def test_tasks_and_workers_are_seen_and_steered(client: redis_client.Redis, tmp_path: Path) -> None:
    assert run("worker:ping", code=1).stderr.startswith("No worker has reported")
    blocked = publish(tmp_path / "blocked", "hang")
    [sync] = [queue for queue in of("queue:status", code=1) if queue["queue"] == "sync"]
    assert sync["depth"] == 1
    assert sync["blocked_seconds"] == sync["oldest_seconds"] >= 0
    assert (sync["in_per_second"], sync["out_per_second"]) == (None, None)  # nobody has noted anything

    later = publish(tmp_path / "later", "slow", countdown=500)
    waits = publish(tmp_path / "waits", "slow")
    with Worker(tmp_path, app=APP, queues="sync") as worker:
        wait_until(lambda: of("tasks", "active"), "no task is reported")
        wait_until(lambda: len(of("tasks", "scheduled")) == 1 and of("tasks", "reserved"), "nothing is in hand")
        sees_the_worker(worker, blocked)
        sees_what_it_has_in_hand(waits, later)
        stops_what_runs(blocked)
        keeps_a_name_from_running(worker, client, tmp_path)
        ends_the_worker(worker, client)


def consuming() -> Any:
    """What `worker:ping` says once a worker consumes: the first reports may say that it does not."""
    done = CliRunner()
    wait_until(lambda: done.invoke(cli.main, ["worker:ping"]).exit_code == 0, "no worker consumes")
    return of("worker:ping")


def sees_the_worker(worker: Worker, task_id: str) -> None:
    [active] = of("tasks", "active")
    assert (active["id"], active["task"]) == (task_id, "test.fault")
    assert MAIL not in str(active)
    table = run("tasks", "active").output
    assert task_id in table
    assert MAIL not in table

    [pinged] = consuming()
    assert pinged["seconds"] <= TTL_SECONDS
    [known] = of("worker:info", pinged["worker"])
    assert known["pid"] == worker.pid
    assert [child["work"]["id"] for child in known["children"]] == [task_id]
    shown = run("worker:info").output
    assert task_id in shown
    assert "1/1" in shown
    assert "no worker of this name" in run("worker:info", "nobody", code=1).stderr

    status = of("task:status", task_id)
    assert (status["state"], status["worker"], status["task"]) == ("STARTED", pinged["worker"], "test.fault")
    assert pinged["worker"] in run("task:status", task_id).output
    assert of("task:status", "unknown")["state"] == "PENDING"
    assert [one for one in of("queue:status") if one["blocked_seconds"] is not None] == []
    wait_until(lambda: of("queue:status")[0]["in_per_second"] is not None, "the worker notes no rates")


def sees_what_it_has_in_hand(waits: str, later: str) -> None:
    for verb, task_id in (("reserved", waits), ("scheduled", later)):
        [found] = of("tasks", verb)
        assert (found["id"], found["queue"], found["task"]) == (task_id, "sync", "test.fault")
        assert MAIL not in str(found)
        assert f"<{len(MAIL)} characters>" in str(found)
        assert task_id in run("tasks", verb).output
    assert of("tasks", "reserved", "--limit", "1") == []  # the first one is at work


def stops_what_runs(task_id: str) -> None:
    assert of("task:revoke", task_id, "--terminate")["terminated"] == [task_id]
    wait_until(lambda: of("task:status", task_id)["state"] == "REVOKED", "it runs on")
    assert of("tasks", "revoked")[0]["id"] == task_id


def keeps_a_name_from_running(worker: Worker, client: redis_client.Redis, tmp_path: Path) -> None:
    """Also after the worker was started again; until it is lifted."""
    assert revocations.revoke_name(client, "test.fault", 3600)
    [entry] = [entry for entry in of("tasks", "revoked") if entry["name"]]
    assert entry["name"] == "test.fault"
    assert entry["seconds"] == pytest.approx(3600, abs=30)
    assert "all fault" in run("tasks", "revoked").output
    worker.kill()
    worker.start()
    dropped = publish(tmp_path / "dropped", "slow")
    wait_until(lambda: of("task:status", dropped)["state"] == "REVOKED", "it is not dropped")
    assert fault_app.runs(tmp_path / "dropped") == 0

    assert revocations.lift(client, "test.fault")

    def has_run() -> bool:
        runs = publish(tmp_path / "lifted", "slow")
        wait_until(lambda: of("task:status", runs)["state"] in ("REVOKED", "SUCCESS"), "nothing becomes of it")
        return str(of("task:status", runs)["state"]) == "SUCCESS"

    wait_until(has_run, "tasks of the name are still dropped", 10)


def ends_the_worker(worker: Worker, client: redis_client.Redis) -> None:
    [node] = [one["worker"] for one in consuming()]
    assert run("worker:shutdown", code=2)
    assert run("worker:shutdown", node, given="n\n", code=1)
    assert not worker.has_ended()
    run("worker:shutdown", node, "--yes")
    worker.wait(20)
    assert run("worker:ping", code=1)


def test_a_worker_whose_host_is_gone_is_forgotten_when_a_person_says_so(client: redis_client.Redis) -> None:
    client.zadd(WORKERS, {f"worker@{host}": redis_now(client) - 60 for host in ("gone", "away")})
    assert [(one["worker"], one["state"]) for one in of("worker:ping", "worker@gone", code=1)] == [
        ("worker@gone", "down")
    ]
    assert run("worker:shutdown", "--all", "--yes", code=1).stderr.strip() == "error: no worker is up"
    run("worker:shutdown", "worker@gone", given="n\n", code=1)
    said = run("worker:shutdown", "worker@gone", given="y\n").stderr
    assert "Forget worker@gone" in said
    assert "worker@gone: forgotten" in said
    assert [one["worker"] for one in of("worker:ping", code=1)] == ["worker@away"]


def test_a_task_is_queued_by_its_name(client: redis_client.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = {"email_id": "1", "tenant_id": TENANT, "user_id": USER}
    queued = of("task:run", "check_spam", "--kwargs", json.dumps(ids))
    [message] = of("queue:list", "spam")["messages"]
    assert (message["id"], message["task"], message["arguments"]["kwargs"]) == (queued["task_id"], CHECK_SPAM, ids)
    assert "task:status" in run("task:run", "cleanup_stale_results").stderr
    for wrong in ("{", "[]", "1", "[" * 100_000, '{"email_id": "1"}', json.dumps({**ids, "more": 1})):
        assert "--kwargs" in run("task:run", "check_spam", "--kwargs", wrong, code=2).stderr
    assert of("queue:list", "spam")["depth"] == 1
    late = run("task:run", "check_spam", "--kwargs", json.dumps(ids), "--wait", "--timeout", "0", code=1)
    assert "not done within 0 s" in late.stderr

    fault_app.app.conf.task_always_eager = True
    done = of("task:run", "cleanup_stale_results", "--wait")
    assert done["result"]["status"] == "success"


def test_a_name_is_revoked_and_lifted(client: redis_client.Redis) -> None:
    run("task:revoke", "--name", "check_spam", given="n\n", code=1)
    assert of("tasks", "revoked") == []
    run("task:revoke", "--name", "check_spam", "--hours", "2", "--yes")
    [entry] = of("tasks", "revoked")
    assert entry["name"] == CHECK_SPAM
    assert entry["seconds"] == pytest.approx(7200, abs=30)
    assert [check.warns for check in check_site() if check.component == "revoked"] == [True]

    # Without --hours it holds until it is lifted, whatever else is revoked meanwhile
    assert of("task:revoke", "--name", "check_spam", "--yes")["hours"] is None
    assert of("task:revoke", "an-id")["hours"] == 24
    assert client.ttl("metabuilder:revoked") == -1
    assert {entry["name"]: entry["seconds"] for entry in of("tasks", "revoked")}[CHECK_SPAM] is None
    assert "until lifted" in run("tasks", "revoked").output
    [note] = [check for check in check_site() if check.component == "revoked"]
    assert note.warns
    assert "drop every task check_spam" in note.detail
    assert (names_run().warns, names_run().detail) == (True, note.detail)  # `health` of the native stack
    assert of("task:revoke", "--name", "check_spam", "--lift") == {"lifted": "check_spam"}
    assert [check.warns for check in check_site() if check.component == "revoked"] == [False]
    assert (names_run().ok, names_run().warns) == (True, False)
    assert of("task:revoke", "--name", "check_spam", "--lift") == {"lifted": None}
    for wrong in (
        [],
        ["1", "--name", "check_spam"],
        ["1", "--lift"],
        ["--name", "check_spam", "--lift", "--terminate"],
    ):
        run("task:revoke", *wrong, code=2)


def test_revocations_are_bounded_and_end(client: redis_client.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocations, "MAX_REVOCATIONS", 3)
    for number in range(3):
        run("task:revoke", f"id-{number}")
    assert "revoked already" in run("task:revoke", "id-4", code=1).stderr
    client.zadd("metabuilder:revoked", {"id:id-1": 1})
    run("task:revoke", "id-4")
    assert {entry["id"] for entry in of("tasks", "revoked")} == {"id-0", "id-2", "id-4"}


def test_what_a_dead_letter_says_is_listed_and_retried(client: redis_client.Redis) -> None:
    failure = Failure("key", "test.fault", "id", USER, {"args": [TENANT]}, "wrong", "It is wrong.", "", 1)
    bury(TENANT, failure, (TENANT, USER, "/nowhere", "slow", MAIL), {})
    [letter] = of("tasks", "failed")
    assert letter["task_name"] == "test.fault"
    assert of("task:retry", letter["id"]) == {"task_ids": ["id"]}
    run("task:retry", "nobody's", code=1)


def test_registered_tasks_are_those_of_the_registry() -> None:
    assert [row["name"] for row in of("tasks", "registered")] == [row.name for row in TASKS]
    assert "cleanup_stale_results" in run("tasks", "registered").output


HOSTILE = (
    b"",
    b"\xff\xfe",
    b"[" * 50_000,
    b'{"node": 1}',
    json.dumps([{"headers": {"id": SENT}}, "", SENT]).encode(),
)
LOOKS = (
    *(("tasks", kind) for kind in ("active", "reserved", "scheduled", "revoked")),
    *(("worker:info",), ("worker:ping",), ("queue:status",), ("stats",), ("beat:status",)),
)


def test_nothing_in_redis_ends_in_a_traceback_or_on_the_terminal(client: redis_client.Redis) -> None:
    now = client.time()[0]
    for number, content in enumerate(HOSTILE):
        node = f"{SENT}{number}"
        client.zadd(WORKERS, {node: now})
        client.set(report_key(node), content, ex=10)
        client.hset("unacked", node, content)
        client.zadd("unacked_index", {node: now})
        client.zadd("metabuilder:revoked", {content: now + 100, f"id:{SENT}": now + 100, f"name:{SENT}": now + 100})
        client.hset("metabuilder:totals", content, content)
    work = Work(id=SENT, name=SENT, positional=SENT, named=SENT, seconds=1)
    counts = {"pid": 1, "seconds": 1, "concurrency": 1, "reserved": 1, "restarts": 0, "pss": 1}
    tell(client, Report(node=SENT, host=SENT, release=SENT, consumes=True, is_stopping=False, **counts,
                        children=(Child(pid=1, pss=1, work=work),)))  # fmt: skip
    for words in LOOKS:
        for option in ((), ("--json",)):
            done = CliRunner().invoke(cli.main, [*words, *option])
            assert isinstance(done.exception, SystemExit | None), (words, done.exception)
            assert not set(done.output) & set(SENT[:1] + "\x07\x9b\u202e")
    assert "[bold]" in run("tasks", "active", "--json").output
    for key in list(client.scan_iter()):
        kind = client.type(key)
        client.delete(key)
        client.set(key, SENT) if kind != b"string" else client.lpush(key, SENT)
    for words in LOOKS:
        done = CliRunner().invoke(cli.main, words)
        assert isinstance(done.exception, SystemExit | None), (words, done.exception)


def test_stats_and_the_rate_of_a_queue_come_from_what_workers_count(
    client: redis_client.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert of("stats") == []
    counts = {f"ended|{CHECK_SPAM}|success": 3, f"ended|{CHECK_SPAM}|failure": 1, f"run|{CHECK_SPAM}|success|0.1": 4}
    counts |= {f"wait|{CHECK_SPAM}|5": 4, f"wait|{CHECK_SPAM}|sum": 8_000_000}
    client.hset("metabuilder:totals", mapping={**counts, f"run|{CHECK_SPAM}|success|sum": 2_000_000})
    [spam] = of("stats")
    assert {bound: count for bound, count in spam.pop("waits").items() if count} == {"5": 4}
    assert spam == {
        "task": CHECK_SPAM,
        "ended": {"success": 3, "failure": 1},
        "run_seconds": 0.5,
        "wait_seconds": 2.0,
    }
    assert "0.50 s" in run("stats").output

    def sleep(seconds: float) -> None:
        client.hincrby("metabuilder:totals", f"ended|{CHECK_SPAM}|success", 10)
        client.lpush("spam", "{}")

    monkeypatch.setattr(queue, "time", SimpleNamespace(sleep=sleep, monotonic=iter((0.0, 2.0)).__next__))
    rates = {one["queue"]: (one["in_per_second"], one["out_per_second"]) for one in of("queue:status", "--rate", "2")}
    assert rates == {**dict.fromkeys(QUEUES, (0, 0)), "spam": (5.5, 5)}


def test_rates_are_told_without_waiting_for_them(client: redis_client.Redis) -> None:
    """Over the last half minute, by what workers noted, whatever else is in the key."""
    rates.note(client)
    moment, [text] = client.time()[0], client.lrange("metabuilder:rates", 0, -1)
    assert "in/s" in run("queue:status").output
    before = {**json.loads(text), "at": moment - 20}
    client.rpush("metabuilder:rates", SENT, json.dumps({**before, "at": moment + 900}), json.dumps(before), "[")
    client.hincrby("metabuilder:totals", f"ended|{CHECK_SPAM}|success", 200)
    client.lpush("spam", *["{}"] * 20)
    found = {one["queue"]: (one["in_per_second"], one["out_per_second"]) for one in of("queue:status")}
    come, gone = found.pop("spam")
    assert 0 < gone <= 10
    assert come == pytest.approx(gone * 1.1)
    assert set(found.values()) == {(0, 0)}

    # A note a few seconds old is enough for all workers, and no more are kept than are read
    rates.note(client)
    assert client.llen("metabuilder:rates") == 5
    client.lpush("metabuilder:rates", json.dumps(before))
    for _ in range(2):
        rates.note(client)
    assert client.llen("metabuilder:rates") == 7
    assert 0 < client.ttl("metabuilder:rates") <= 60
    client.delete("metabuilder:rates")
    client.set("metabuilder:rates", SENT)
    assert of("queue:status")[0]["in_per_second"] is None
    rates.mend(client)
    rates.note(client)
    assert client.llen("metabuilder:rates") == 1


def test_redis_and_the_database_are_cleaned(client: redis_client.Redis) -> None:
    client.set("celery-task-meta-old", json.dumps({"date_done": "2020-01-01T00:00:00"}))
    removed = of("clean:db")
    assert removed == dict.fromkeys(("leases_released", "dead_letters_deleted", "events_deleted", "blobs_deleted"), 0)
    assert "leases" in run("clean:db").output
    assert set(of("clean:redis")) == {"results_deleted", "reply_queues_deleted", "dead_letters_deleted"}


@pytest.mark.parametrize("words", ["queue:status", "tasks active", "worker:ping"])
def test_what_is_asked_in_an_incident_is_quick_as_it_loads_nothing_slow(
    words: str, client: redis_client.Redis
) -> None:
    program = (
        "import sys\nfrom manage.cli import main\ntry: main(sys.argv[1:])\nfinally: print('LOADED', *sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *words.split(), "--json"],
        env={**os.environ, "METABUILDER_COMMAND": "metabuilder"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    loaded = set(done.stdout.rpartition("LOADED ")[2].split())
    assert "redis" in loaded
    assert loaded & {"billiard", "celery", "kombu.utils", "psycopg2", "rich", "sqlalchemy", "supervisor"} == set()
