"""cleanup_stale_results: what nobody needs any more is removed and counted, and nothing else is touched."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
import redis as redis_client
from sqlalchemy import create_engine, text

from tasks import maintenance
from tasks.monitoring.readings.orphans import orphans
from tasks.runtime.broker import aside
from tasks.runtime.broker import cleanup as broker_cleanup
from tasks.storage import cleanup, dead_letters
from tests.conftest import TENANT, USER, Database, sync
from tests.support.application import application
from tests.support.mailbox import Mailbox, message
from tests.support.servers import RedisServer
from tests.support.stored import column
from tests.support.worker import wait_until


@pytest.fixture
def clients(redis: RedisServer, environment: Callable[..., None]) -> Iterator[list[redis_client.Redis]]:
    """The broker's database and that of the results."""
    environment(REDIS_URL=redis.url)
    found = [redis_client.Redis(port=redis.port, password=redis.password, db=db) for db in (0, 1)]
    yield found
    for client in found:
        client.close()


@pytest.fixture
def run(clients: list[redis_client.Redis]) -> Iterator[Callable[[], dict[str, Any]]]:
    with application() as app:
        yield lambda: app.tasks["email_service.tasks.cleanup_stale_results"].apply(throw=True).get()


def result(age: timedelta | None) -> str:
    done = None if age is None else (datetime.now(UTC) - age).isoformat()
    return json.dumps({"status": "SUCCESS" if done else "STARTED", "date_done": done})


def test_old_results_without_an_expiry_go_and_young_ones_get_one(
    database: Database, clients: list[redis_client.Redis], run: Callable[[], dict[str, Any]]
) -> None:
    _, results = clients
    for number in range(2500):
        results.set(f"celery-task-meta-old-{number}", result(timedelta(hours=2)))
    results.set("celery-task-meta-young", result(timedelta(minutes=5)))
    results.set("celery-task-meta-running", result(None))
    results.set("celery-task-meta-expiring", result(timedelta(hours=2)), ex=50)
    results.set("something-else", result(timedelta(hours=2)))

    done = run()

    assert (done["status"], done["results_deleted"]) == ("success", 2500)
    assert {key.decode() for key in results.keys("*")} == {
        *("celery-task-meta-young", "celery-task-meta-running", "celery-task-meta-expiring"),
        "something-else",
    }
    assert 0 < results.ttl("celery-task-meta-young") <= 3600
    assert results.ttl("something-else") == -1


def test_keys_of_nobody_are_counted_and_stay(
    database: Database, clients: list[redis_client.Redis], run: Callable[[], dict[str, Any]]
) -> None:
    broker, results = clients
    assert (run()["status"], dict(orphans(broker))) == ("success", {"broker": 0, "results": 0})
    # Nobody's: what a key held that is used as another type, what a program of others left, an answer that was kept
    for key in ("sync:of-another-type", "metabuilder:aside:of-another-type", "somebody's"):
        broker.set(key, "x")
    results.set("somebody's", "x")
    # Somebody's, or gone by themselves
    broker.set("for-a-while", "x", ex=600)
    for key in (
        "sync",
        "send\x06\x169",
        "unacked",
        "_kombu.binding.sync",
        "_kombu.binding_deadlines",
        "metabuilder:new",
        "w@h.celery.pidbox",
    ):
        broker.set(key, "x")
    assert (run()["status"], dict(orphans(broker))) == ("success", {"broker": 3, "results": 1})
    assert (broker.exists("somebody's"), results.exists("somebody's")) == (1, 1)
    assert 0 < broker.ttl(broker_cleanup.ORPHANS) <= 3 * 3600
    # A full Redis takes no count, and the cleanup ends as well
    broker.config_set("maxmemory", 1)
    try:
        assert run()["status"] == "success"
    finally:
        broker.config_set("maxmemory", 0)
    assert orphans(broker) == {}
    # Whatever the key holds, nobody fails
    broker.delete(broker_cleanup.ORPHANS)
    broker.hset(broker_cleanup.ORPHANS, mapping={"broker": "many", "results": "1" * 30})
    assert orphans(broker) == {}
    broker.delete(broker_cleanup.ORPHANS)
    broker.rpush(broker_cleanup.ORPHANS, "x")
    assert orphans(broker) == {}
    assert (run()["status"], dict(orphans(broker))) == ("success", {"broker": 3, "results": 1})


def test_keys_that_hold_anything_cost_themselves(
    database: Database, clients: list[redis_client.Redis], run: Callable[[], dict[str, Any]]
) -> None:
    broker, results = clients
    odd = ["null", "[1]", "5", "{}", "no JSON", '{"date_done": 5}', '{"date_done": "soon"}', b"\xff", "[" * 60_000]
    for number, value in enumerate(odd):
        results.set(f"celery-task-meta-odd-{number}", value)
    results.rpush("celery-task-meta-list", "a")
    results.set("celery-task-meta-old", result(timedelta(hours=2)))
    broker.set("metabuilder:cleanup:blobs", "no place")
    broker.set("a.reply.celery.pidbox", "no list")
    broker.set(b"\xff.reply.celery.pidbox", b"\xff")
    results.set(b"celery-task-meta-\xff", result(timedelta(hours=2)))

    assert run()["results_deleted"] == 2
    # What is no result goes when a result would.
    assert all(results.ttl(f"celery-task-meta-odd-{number}") > 0 for number in range(len(odd)))


@pytest.mark.parametrize("odd", [b"a\0b", b"\xff", b"a\nb"])
def test_a_spoilt_place_is_the_beginning(
    odd: bytes,
    account: Any,
    mailbox: Mailbox,
    database: Database,
    clients: list[redis_client.Redis],
    run: Callable[[], dict[str, Any]],
) -> None:
    mailbox.append([with_attachment(b"a")])
    sync(account)
    with create_engine(database.owner_url).begin() as owner:
        owner.execute(text("DELETE FROM email_message"))
        owner.execute(text("UPDATE blob SET created_at = now() - interval '25 hours'"))
    clients[0].hset("metabuilder:cleanup:blobs", mapping={"tenant_id": odd, "sha256": odd})
    assert run()["blobs_deleted"] == 1
    assert not clients[0].exists("metabuilder:cleanup:blobs")


STEPS = {
    "results_deleted": (broker_cleanup, "delete_old_results"),
    "reply_queues_deleted": (broker_cleanup, "delete_orphaned_replies"),
    "dead_letters_deleted": (aside, "delete_old"),
    "leases_released": (maintenance, "release_expired_leases"),
    "events_deleted": (maintenance, "delete_old_events"),
    "blobs_deleted": (maintenance, "delete_unreferenced_blobs"),
}


@pytest.mark.parametrize("failing", STEPS)
def test_a_step_that_fails_keeps_no_other_from_its_work(
    failing: str,
    database: Database,
    clients: list[redis_client.Redis],
    run: Callable[[], dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    done: list[str] = []

    def step(name: str, real: Callable[..., Any], *args: Any) -> Any:
        if name == failing:
            raise ValueError(f"no {name}")
        done.append(name)
        return real(*args)

    for name, (module, function) in STEPS.items():
        monkeypatch.setattr(module, function, partial(step, name, getattr(module, function)))
    with pytest.raises(ValueError, match=f"no {failing}"):
        run()
    assert done == [name for name in STEPS if name != failing]
    assert f"a step of the cleanup failed: {failing}" in caplog.text


def test_answers_that_nobody_fetches_go(
    database: Database,
    clients: list[redis_client.Redis],
    run: Callable[[], dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broker, _ = clients
    broker.lpush("orphan.reply.celery.pidbox", "answer")
    broker.lpush("sync", "a task")
    assert run()["reply_queues_deleted"] == 0, "it may still be fetched"

    # As if it had lain there for ten minutes.
    monkeypatch.setattr(broker_cleanup, "_REPLY_IDLE_SECONDS", -1)
    broker.lpush("expiring.reply.celery.pidbox", "answer")
    broker.expire("expiring.reply.celery.pidbox", 50)
    assert run()["reply_queues_deleted"] == 1
    assert broker.exists("sync", "expiring.reply.celery.pidbox") == 2
    assert not broker.exists("orphan.reply.celery.pidbox")


def test_redis_is_scanned_and_never_asked_for_all_keys(
    database: Database, clients: list[redis_client.Redis], run: Callable[[], dict[str, Any]]
) -> None:
    clients[0].config_resetstat()
    run()
    used = clients[0].info("commandstats")
    assert "cmdstat_scan" in used
    assert "cmdstat_keys" not in used


def test_expired_leases_are_released(account: Any, database: Database, run: Callable[[], dict[str, Any]]) -> None:
    with create_engine(database.owner_url).begin() as owner:
        owner.execute(text("UPDATE email_client SET lease_owner = 'x', lease_until = now() + interval '1 minute'"))
    assert run()["leases_released"] == 0
    with create_engine(database.owner_url).begin() as owner:
        owner.execute(text("UPDATE email_client SET lease_until = now() - interval '1 second'"))
    assert run()["leases_released"] == 1
    assert column("SELECT lease_owner FROM email_client") == [None]


def with_attachment(content: bytes) -> bytes:
    raw = message(1).replace(b'text/plain; charset="utf-8"', b"application/pdf")
    return raw + b"\r\n" + content


def test_blobs_without_references_go_after_a_day(
    account: Any,
    mailbox: Mailbox,
    database: Database,
    run: Callable[[], dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given three blobs, of which one has lost its message
    mailbox.append([with_attachment(b"a"), with_attachment(b"b"), with_attachment(b"c")])
    sync(account)
    assert column("SELECT count(*) FROM blob") == [3]
    with create_engine(database.owner_url).begin() as owner:
        owner.execute(text("DELETE FROM email_message WHERE imap_uid = 2"))
    assert run()["blobs_deleted"] == 0, "it is too young"

    with create_engine(database.owner_url).begin() as owner:
        owner.execute(text("UPDATE blob SET created_at = now() - interval '25 hours'"))
    monkeypatch.setattr(cleanup, "_BLOBS_PER_STEP", 1)
    assert run()["blobs_deleted"] == 1

    assert column("SELECT count(*) FROM blob") == [2]
    assert column("SELECT count(*) FROM email_attachment JOIN blob ON storage_key = sha256") == [2]
    assert run()["blobs_deleted"] == 0


def test_a_message_that_brings_the_content_of_a_blob_just_being_deleted_is_stored(
    account: Any, mailbox: Mailbox, database: Database
) -> None:
    mailbox.append([with_attachment(b"a")])
    sync(account)
    mailbox.append([with_attachment(b"a")])
    with create_engine(database.owner_url).begin() as owner, ThreadPoolExecutor(1) as thread:
        owner.execute(text("DELETE FROM email_message"))
        owner.execute(text("DELETE FROM blob"))
        syncing = thread.submit(sync, account)
        waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        wait_until(lambda: owner.scalar(waiting), "the sync does not come to the blob")
        owner.commit()
        assert syncing.result(30).total("synced") == 1
    assert column("SELECT count(*) FROM email_attachment JOIN blob ON storage_key = sha256") == [1]
    assert column("SELECT count(*) FROM raw_quarantine") == [0]


def test_old_dead_letters_go_with_their_arguments(database: Database, run: Callable[[], dict[str, Any]]) -> None:
    for number in range(3):
        failure = dead_letters.Failure(f"k{number}", "task", "id", USER, {}, "code", "error", "", 1)
        dead_letters.bury(TENANT, failure, ["a secret"], {})
    with create_engine(database.owner_url).begin() as owner:
        owner.execute(
            text("UPDATE dead_letter SET last_failed_at = now() - interval '31 days' WHERE task_key <> 'k0'")
        )

    assert run()["dead_letters_deleted"] == 2

    assert column("SELECT task_key FROM dead_letter") == ["k0"]
    assert column("SELECT count(*) FROM credential") == [1]
