"""`metabuilder health` on a real Redis and PostgreSQL, with a real worker: what is planted is found."""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg2
import pytest
import redis as redis_client

from manage import session, site_checks
from native import stores
from native.postgres import libpq
from tasks.monitoring.report import WORKERS
from tasks.runtime.scheduler import TICKED
from tasks.storage.accounts.rows import NewAccount, add_account
from tasks.storage.dead_letters import Failure, bury
from tests.conftest import TENANT, USER, Database
from tests.support.application import application
from tests.support.servers import RedisServer
from tests.support.worker import Worker, wait_until


@pytest.fixture
def client(
    redis: RedisServer, database: Database, environment: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> Iterator[redis_client.Redis]:
    environment(REDIS_URL=redis.url)
    monkeypatch.setattr(session, "IS_HOST", True)  # the environment is that of the test
    with redis_client.Redis(port=redis.port, password=redis.password) as client, application():
        client.flushall()
        yield client


def found() -> dict[str, str]:
    """What is not well, by component: how bad, and how it is said with what to do."""
    return {
        check.component: f"{'look' if check.ok else 'down'}: {check.detail}. {check.advice}"
        for check in site_checks.check_site()
        if check.warns or not check.ok
    }


def plant(database: Database, client: redis_client.Redis) -> None:
    new = NewAccount("late", "late@example.org", "imap.example.org", 993, "tls", "late", "sample")
    account = add_account(TENANT, USER, new)
    with psycopg2.connect(libpq(database.owner_url)) as connection, connection.cursor() as cursor:
        cursor.execute("UPDATE email_client SET next_sync_at = now() - interval '1 hour' WHERE id = %s", [account])
        for state, age in (("unknown", 60), ("queued", 1_000_020)):
            cursor.execute(
                "INSERT INTO outbox_message (tenant_id, id, email_client_id, key, digest, state, message_id, sender,"
                " recipients, size, asked_at) VALUES (%s, %s, %s, %s, '', %s, '', '', '[]', 0,"
                " now() - make_interval(secs => %s))",
                [TENANT, state, account, state, state, age],
            )
        cursor.execute("SELECT set_config('metabuilder.tenant_id', %s, true)", [TENANT])
        cursor.execute("SELECT queue_task('check_spam', jsonb_build_object('email_id', '1', 'user_id', %s))", [USER])
        cursor.execute("UPDATE queued_task SET queued_at = queued_at - interval '2 hours'")
    bury(TENANT, Failure("key", "a task", "id", USER, {}, "code", "words", "", 1), (TENANT, USER), {})
    client.zadd(WORKERS, {"worker@gone": time.time() - 60})


def test_what_does_not_work_is_found(
    client: redis_client.Redis, database: Database, tmp_path: Path, environment: Callable[..., None]
) -> None:
    client.set(TICKED, time.time())
    with Worker(tmp_path) as worker:
        wait_until(lambda: found() == {}, "a well site has findings")
        plant(database, client)
        client.set(TICKED, time.time() - 60)
        seen = found()
        # Without the seconds, which go on
        assert {
            name: re.sub(r"(\d\d:\d\d):\d\d", r"\1", words.partition(".")[0]) for name, words in seen.items()
        } == {
            "worker worker@gone": "down: has not reported for 00:01; forgotten a day after its last report",
            "beat": "down: has not looked at its schedule for 00:01",
            "accounts": "look: 1 overdue: their sync has been due for more than 00:15",
            "dead letters": "look: 1 not retried",
            "outbox in doubt": "look: 1 nobody knows whether they were sent",
            "outbox": "look: 1 messages wait, the oldest for 11 d 13:47",
            "queued in SQL": "look: 1 not published, the oldest for 02:00",
        }
        # And the native stack says the same of what has piled up
        native = [check for check in [*stores.people_are_needed(), stores.queues_move()] if check.warns]
        assert [f"look: {one.detail}" for one in native] == [
            seen[name].partition(".")[0] for name in ("accounts", "dead letters", "outbox in doubt", "queued in SQL")
        ]
        assert all("./manage.sh" in one.advice and "metabuilder" not in one.advice for one in native)
        worker.kill()
    assert "down: no worker took a canary from sync" in found()["consuming"]
    client.lpush("delete", '{"due": 1.000000, "body": ""}')
    queues = stores.queues_move()
    assert queues.warns
    assert found()["queues"].startswith(f"look: {queues.detail}. ")
    assert "./manage.sh tasks active" in queues.advice
    environment(DATABASE_URL="postgresql://nobody@127.0.0.1:1/nowhere", REDIS_URL="redis://127.0.0.1:1/0")
    with application():
        seen = found()
    assert {*seen} == {"redis", "consuming", "postgresql"}
    assert "Redis at 127.0.0.1:1 cannot be reached" in seen["redis"]
    assert all(words.startswith("down: ") and not words.endswith(". ") for words in seen.values())
