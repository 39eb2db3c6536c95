"""Clocks that are minutes off, or are set meanwhile: nothing is thrown away or waits for long, and it is said."""

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from tasks.storage.accounts.rows import NewAccount, add_account
from tasks.storage.session import tenant_transaction
from tests.conftest import TENANT, USER, Database
from tests.integration.faults.conftest import Queue, broker
from tests.support.clock import Clock
from tests.support.servers import RedisServer
from tests.support.worker import Worker, wait_until


@pytest.fixture
def clock(environment: Callable[..., None], tmp_path: Path) -> Clock:
    """Of the processes that are started from now on."""
    clock = Clock(tmp_path)
    environment(**clock.environment)
    return clock


def test_hosts_whose_clocks_differ_show_the_same_account_as_overdue(
    database: Database, redis: RedisServer, environment: Callable[..., None], tmp_path: Path
) -> None:
    environment(REDIS_URL=redis.url)
    for name in ("late", "fresh"):
        add_account(TENANT, USER, NewAccount(name, "ada@example.org", "127.0.0.1", 9, "none", "ada", "x"))
    with tenant_transaction(TENANT) as connection:
        connection.execute(
            text(
                "UPDATE email_client SET created_at = now() - interval '1 day', last_sync_at = now() - "
                "CASE account_name WHEN 'late' THEN interval '9 minutes' ELSE interval '3 minutes' END"
            )
        )
    shown = []
    for name, off in (("ahead", 600), ("behind", -600)):
        (folder := tmp_path / name).mkdir()
        clock = Clock(folder)
        clock.set(off)
        shown.append(
            subprocess.run(
                [sys.executable, "-m", "manage", "account", "list", "--tenant", TENANT],
                env={**os.environ, "METABUILDER_COMMAND": "metabuilder", **clock.environment},
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
    for listed in shown:
        lines = {line.split()[0]: line for line in listed.splitlines() if "ada at" in line}
        late, fresh = lines["late"], lines["fresh"]
        assert "overdue" in late
        assert "00:09:" in late
        assert " ok " in fresh
        assert "00:03:" in fresh


def test_a_worker_whose_clock_is_off_and_set_throws_nothing_away_and_says_so(
    short_waits: None, tasks_queue: Queue, redis: RedisServer, tmp_path: Path, clock: Clock
) -> None:
    with Worker(tmp_path) as worker:
        for by, words in ((600, "600 s ahead of that of"), (-600, ""), (0, "agree again")):
            clock.set(by)
            # One that expires in a while, as beat queues it; one that expired; one that is due in a second
            send = tasks_queue.app.send_task
            name = "email_service.tasks.periodic_sync"
            fresh = send(name, queue="periodic", expires=300)
            late = send(name, queue="periodic", expires=datetime.now(UTC) - timedelta(seconds=20))
            soon = send(name, queue="periodic", countdown=1)
            assert fresh.get(timeout=60)["status"] == "success"
            assert soon.get(timeout=60)["status"] == "success"
            wait_until(lambda late=late: late.state == "REVOKED", "what expired ran")
            wait_until(lambda words=words: words in worker.log.read_text(), "it is not said")
        with broker(redis) as client:
            wait_until(lambda: not client.zcard("unacked_index"), "a delivery is left over")
