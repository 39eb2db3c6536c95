"""The exporter, as a process of its own on a real Redis and PostgreSQL."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from native.ports import LOOPBACK
from native.postgres import libpq
from tasks.monitoring import report, totals
from tasks.registry import QUEUES, SEND_EMAIL, SYNC_EMAILS
from tasks.runtime.broker import cleanup
from tasks.runtime.scheduler import LAST_RUNS, TICKED
from tasks.storage import dead_letters
from tasks.storage.accounts.rows import NewAccount, add_account
from tasks.storage.webhooks.endpoints import add_webhook
from tests.conftest import TENANT, USER, Database, as_superuser
from tests.integration.faults.conftest import broker
from tests.support.application import application
from tests.support.exporter import Exporter, running_exporter
from tests.support.servers import RedisServer
from tests.support.trouble import in_trouble
from tests.support.worker import Worker, wait_until

# An account in each state, as its columns say, and what it counts as.
ACCOUNTS = {
    ("imap.gmail.com", "paused_at = now(), failing_since = now(), last_error_code = 'authentication_failed'"): (
        "paused",
        "google",
        "authentication_failed",
    ),
    ("outlook.office365.com", "failing_since = now(), last_error_code = 'odd words'"): (
        "failing",
        "microsoft",
        "other",
    ),
    ("imap.example.org", "last_sync_at = NULL"): ("first_sync", "other", ""),
    ("gmail.com.example.org", "smtp_paused_at = now()"): ("sending_paused", "other", ""),
    ("late.example.org", "next_sync_at = now() - interval '10 minutes'"): None,
    ("off.example.org", "is_sync_enabled = false, failing_since = now()"): None,
    ("watched.example.org", "watched_by = 'w', watched_since = now()"): None,
    ("connecting.example.org", "watched_by = 'w'"): None,
    ("no-idle.example.org", "watch_retry_at = now() + interval '1 day'"): None,
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def exporter(server: RedisServer, database: Database, environment: Callable[..., None]) -> Iterator[Exporter]:
    environment(REDIS_URL=server.url)
    with running_exporter(environment) as found:
        yield found


def fill_postgresql(database: Database) -> None:
    with psycopg2.connect(libpq(database.owner_url)) as connection, connection.cursor() as cursor:
        for number, (host, changes) in enumerate(ACCOUNTS):
            new = NewAccount(f"{number}", f"{number}@example.org", host, 993, "tls", f"{number}", "sample")
            account = add_account(TENANT, USER, new)
            cursor.execute(
                "UPDATE email_client SET last_sync_at = now(), next_sync_at = now() + interval '1 day' WHERE id = %s",
                [account],
            )
            cursor.execute(f"UPDATE email_client SET {changes} WHERE id = %s", [account])
            for state, age in (("queued", 60), ("unknown", 3600), ("sent", 9999)) if number == 0 else ():
                cursor.execute(
                    "INSERT INTO outbox_message (tenant_id, id, email_client_id, key, digest, state, message_id,"
                    " sender, recipients, size, asked_at) VALUES (%s, %s, %s, %s, '', %s, '', '', '[]', 0,"
                    " now() - make_interval(secs => %s))",
                    [TENANT, state, account, state, state, age],
                )
    _, (disabled, _) = [add_webhook(TENANT, "https://app.example.org/") for _ in range(2)]
    with psycopg2.connect(libpq(database.owner_url)) as connection, connection.cursor() as cursor:
        cursor.execute("UPDATE webhook SET is_enabled = false WHERE id = %s", [disabled])
        # No watcher but this one, which is alive, has any: the sending_paused one and the late one wait.
        cursor.execute("INSERT INTO mail_watcher VALUES ('w', now() + interval '1 day')")
        cursor.execute("UPDATE email_client SET watch = 'off' WHERE hostname = 'late.example.org'")
        cursor.execute("SELECT set_config('metabuilder.tenant_id', %s, true)", [TENANT])
        cursor.execute("SELECT queue_task('check_spam', jsonb_build_object('email_id', '1', 'user_id', %s))", [USER])
    for key, task in {"1": SEND_EMAIL, "2": SEND_EMAIL, "3": "an.old.task", "4": "another"}.items():
        dead_letters.bury(TENANT, dead_letters.Failure(key, task, key, USER, {}, "c", "e", "", 1), [], {})


def fill_redis(client: Any) -> None:
    counted = totals.Totals()
    counted.add("ended", SYNC_EMAILS, "success", amount=3)
    counted.add("redelivered", SYNC_EMAILS, amount=4)
    counted.add("error", SYNC_EMAILS, "server_busy", amount=5)
    counted.observe(40, "wait", SEND_EMAIL)
    for seconds in (0.02, 7, 7000):
        counted.observe(seconds, "run", SYNC_EMAILS, "success")
    counted.tell(client)
    totals.add(
        client,
        {
            ("sync", "synced"): 4,
            ("watch", "missed"): 2,
            ("sync", "bytes"): 5000,
            ("server", "imap", "google", "server_busy"): 6,
        },
    )
    totals.add(
        client,
        {
            ("outbox", "failed"): 7,
            ("webhook_events", "failed"): 2,
            ("removed", "results_deleted"): 8,
            ("server", "x", "y", "z"): 9,
        },
    )
    work = report.Work(id="id", name=SYNC_EMAILS, positional="()", named="{}", seconds=100)
    children = (report.Child(pid=2, pss=300, work=work), report.Child(pid=3, pss=None, work=None))
    options: dict[str, Any] = {
        "seconds": 1,
        "concurrency": 2,
        "consumes": True,
        "is_stopping": False,
        "reserved": 4,
        "restarts": 5,
    }
    options["connections"] = report.Connections(redis=6, postgresql=3, postgresql_kept=4)
    report.tell(
        client,
        report.Report(node="w@h", host="h", pid=1, release="1.2", pss=200, children=children, **options),
    )
    client.zadd(report.WORKERS, {"gone@h": time.time() - 60})
    client.lpush("send\x06\x163", f'{{"due": {time.time() - 50:.6f}, "body": ""}}')
    client.hset("unacked", "tag", "x")
    client.hset("metabuilder:aside", "tag", "x")
    client.set(TICKED, time.time() - 70)
    client.hset(LAST_RUNS, "cleanup-stale-tasks-hourly", time.time() - 3700)
    client.hset(LAST_RUNS, "sync-emails-every-5min", time.time() - 10)
    cleanup.note_orphans(client, {"broker": 2})


def forbid(database: Database) -> None:
    """End all connections to it, and allow no new ones."""
    as_superuser(database.server, f"ALTER DATABASE {database.name} ALLOW_CONNECTIONS false")
    as_superuser(
        database.server, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database.name}'"
    )


def test_what_it_tells_and_to_whom(
    exporter: Exporter, server: RedisServer, database: Database, tmp_path: Path
) -> None:
    # A site where nothing has happened yet
    found = exporter.scrape()
    assert {of: value for of, value in found.items() if of[0] == "metabuilder_source_up"} == {
        ("metabuilder_source_up", "redis"): 1,
        ("metabuilder_source_up", "postgresql"): 1,
    }
    assert {of[1] for of in found if of[0] == "metabuilder_queue_messages"} == set(QUEUES)

    # Nobody without the login is told anything
    assert [exporter.get(path, None)[0] for path in ("/metrics", "/", "/other")] == [401] * 3
    assert exporter.get("/metrics", "admin:wrong")[0] == 401
    assert exporter.get("/other")[0] == 404
    assert exporter.get("/metrics", method="POST")[0] == 405
    assert exporter.get("/metrics", method="HEAD") == (200, "")
    for page in ("/healthz", "/readyz"):
        assert exporter.get(page, None) == (503, f"no worker consumes {', '.join(QUEUES)}\n")

    # A site at work
    fill_postgresql(database)
    with broker(server) as client:
        fill_redis(client)
    found = exporter.scrape()
    states = {of[1:]: value for of, value in found.items() if of[0] == "metabuilder_accounts"}
    assert states == {(state, "imap", provider, code): 1 for state, provider, code in filter(None, ACCOUNTS.values())}
    late = {of[1]: value for of, value in found.items() if of[0] == "metabuilder_accounts_late"}
    assert late == {"0": 1, "60": 1, "300": 1, "900": 0, "3600": 0, "21600": 0, "86400": 0}
    run = {of[3]: value for of, value in found.items() if of[0] == "metabuilder_task_run_seconds_bucket"}
    assert (run["0.01"], run["0.05"], run["5"], run["10"], run["3600"], run["+Inf"]) == (0, 1, 1, 2, 2, 3)
    of_the_rest = {
        ("metabuilder_task_run_seconds_sum", SYNC_EMAILS, "success"): 7007.02,
        ("metabuilder_task_info", SEND_EMAIL, "send"): 1,
        ("metabuilder_tasks_total", SYNC_EMAILS, "success"): 3,
        ("metabuilder_task_redeliveries_total", SYNC_EMAILS): 4,
        ("metabuilder_task_errors_total", SYNC_EMAILS, "server_busy"): 5,
        ("metabuilder_task_wait_seconds_count", SEND_EMAIL): 1,
        ("metabuilder_task_wait_seconds_sum", SEND_EMAIL): 40,
        ("metabuilder_messages_in_hand",): 1,
        ("metabuilder_beat_late_seconds", "sync-emails-every-5min"): 0,
        ("metabuilder_sync_messages_total", "synced"): 4,
        ("metabuilder_sync_bytes_total",): 5000,
        ("metabuilder_watch_total", "missed"): 2,
        ("metabuilder_watchers",): 1,
        ("metabuilder_watch_accounts", "connected"): 1,
        ("metabuilder_watch_accounts", "connecting"): 1,
        ("metabuilder_watch_accounts", "waiting"): 1,
        ("metabuilder_watch_accounts", "refused"): 1,
        ("metabuilder_server_errors_total", "imap", "google", "server_busy"): 6,
        ("metabuilder_server_errors_total", "other", "other", "other"): 9,
        ("metabuilder_outbox_changes_total", "failed"): 7,
        ("metabuilder_removed_total", "results_deleted"): 8,
        ("metabuilder_webhook_events_total", "failed"): 2,
        ("metabuilder_webhooks", "working"): 1,
        ("metabuilder_webhooks", "failing"): 0,
        ("metabuilder_webhooks", "disabled"): 1,
        ("metabuilder_queue_messages", "send"): 1,
        ("metabuilder_queue_messages", "sync"): 0,
        ("metabuilder_queue_oldest_seconds", "sync"): 0,
        ("metabuilder_messages_aside",): 1,
        ("metabuilder_worker_up", "w@h"): 1,
        ("metabuilder_worker_up", "gone@h"): 0,
        ("metabuilder_worker_consumes", "w@h"): 1,
        ("metabuilder_worker_info", "w@h", "h", "1.2"): 1,
        ("metabuilder_worker_children", "w@h", "busy"): 1,
        ("metabuilder_worker_children", "w@h", "idle"): 1,
        ("metabuilder_worker_reserved", "w@h"): 4,
        ("metabuilder_worker_restarts_total", "w@h"): 5,
        ("metabuilder_worker_memory_bytes", "w@h", "main"): 200,
        ("metabuilder_worker_memory_bytes", "w@h", "child"): 300,
        ("metabuilder_worker_connections", "w@h", "redis"): 6,
        ("metabuilder_worker_connections", "w@h", "postgresql"): 3,
        ("metabuilder_worker_connections_kept", "w@h", "postgresql"): 4,
        ("metabuilder_orphaned_keys", "broker"): 2,
        ("metabuilder_outbox_messages", "queued"): 1,
        ("metabuilder_outbox_messages", "unknown"): 1,
        ("metabuilder_outbox_messages", "sending"): 0,
        ("metabuilder_dead_letters", SEND_EMAIL, "false"): 2,
        ("metabuilder_dead_letters", "other", "false"): 2,
        ("metabuilder_queued_tasks", "false"): 1,
        ("metabuilder_queued_tasks", "true"): 0,
        ("metabuilder_queued_tasks_oldest_seconds", "true"): 0,
    }
    assert {of: found.get(of) for of in of_the_rest} == of_the_rest
    assert ("metabuilder_outbox_messages", "sent") not in found
    for of in ("broker", "postgresql"):
        assert 1 <= found["metabuilder_connections", of] < found["metabuilder_connections_max", of]
    for of, at_least in {
        ("metabuilder_queue_oldest_seconds", "send"): 50,
        ("metabuilder_worker_longest_task_seconds", "w@h"): 100,
        ("metabuilder_outbox_oldest_seconds", "unknown"): 3600,
        ("metabuilder_beat_silence_seconds",): 70,
        ("metabuilder_beat_late_seconds", "cleanup-stale-tasks-hourly"): 100,
    }.items():
        assert at_least <= found[of] < at_least + 60, of

    # A source that is away leaves out its own metrics
    forbid(database)
    found = exporter.scrape()
    assert (found["metabuilder_source_up", "redis"], found["metabuilder_source_up", "postgresql"]) == (1, 0)
    assert ("metabuilder_messages_in_hand",) in found
    assert not [of for of in found if of[0].startswith("metabuilder_accounts")]
    wait_until(lambda: "PostgreSQL cannot be read\n" in exporter.get("/readyz", None)[1], "it does not say so")
    as_superuser(database.server, f"ALTER DATABASE {database.name} ALLOW_CONNECTIONS true")
    with in_trouble(server, "away"):
        found = exporter.scrape()
        assert (found["metabuilder_source_up", "redis"], found["metabuilder_source_up", "postgresql"]) == (0, 1)
        assert ("metabuilder_accounts_estimate",) in found
        assert ("metabuilder_messages_in_hand",) not in found
        for page in ("/healthz", "/readyz"):
            wait_until(lambda page=page: "Redis cannot be asked" in exporter.get(page, None)[1], "it does not say so")

    # Where a worker consumes, work is done, though not all works; however many ask, they share a canary
    with Worker(tmp_path):
        wait_until(lambda: exporter.get("/readyz", None) == (200, "ok\n"), "it does not find the servers again")
        forbid(database)
        wait_until(
            lambda: exporter.get("/readyz", None) == (503, "PostgreSQL cannot be read\n"), "it does not say so"
        )
        wait_until(lambda: exporter.get("/healthz", None) == (200, "ok\n"), "it takes work for standing still")
        as_superuser(database.server, f"ALTER DATABASE {database.name} ALLOW_CONNECTIONS true")
        wait_until(lambda: exporter.get("/readyz", None) == (200, "ok\n"), "it does not find PostgreSQL again")
        with broker(server) as client:
            before = client.info("commandstats")["cmdstat_rpush"]["calls"]
            began = time.monotonic()
            with ThreadPoolExecutor(8) as pool:
                answers = set(pool.map(lambda _: exporter.get("/readyz", None), range(100)))
            rounds = 1 + (time.monotonic() - began) // 5
            assert answers == {(200, "ok\n")}
            assert client.info("commandstats")["cmdstat_rpush"]["calls"] - before <= rounds * len(QUEUES)
        # What a run of a task counts arrives
        gone = add_account(TENANT, USER, NewAccount("gone", "gone@example.org", LOOPBACK, 1, "tls", "gone", "sample"))
        with application() as app:
            app.send_task(SYNC_EMAILS, (gone, TENANT, USER))
        error = "metabuilder_server_errors_total", "imap", "other", "server_unavailable"
        wait_until(lambda: exporter.scrape().get(error) == 1, "the error of the server is not counted")

    # It ends when it is told to
    exporter.process.terminate()
    assert exporter.process.wait(10) == 0
