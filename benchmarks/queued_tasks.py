"""How fast tasks queued in SQL are published by one beat; a part of `./manage.sh bench dispatch`."""

import os
import signal
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psycopg2
import redis

from native.postgres import APPLICATION, OWNER, WORKER, libpq
from native.process import Server
from tests.support.servers import PostgresServer, RedisServer

_ROWS, _SINGLY = 50_000, 300
_TENANT, _QUEUE = "tenant", "spam"
_LONGEST_SECONDS = 300
_QUEUE_TASK = """
SELECT count(queue_task('check_spam', jsonb_build_object('email_id', number::text, 'user_id', 'user')))
FROM generate_series(1, %s) AS number
"""


@dataclass(frozen=True)
class Queued:
    """Rows of one transaction: how many a second the application wrote, and beat published from the commit on. Rows
    of a transaction each: from the commit until the message is on its queue."""

    rows: int
    written_per_second: float
    published_per_second: float
    p50_ms: float
    p99_ms: float


class _Beat(Server):
    name = "beat"
    stop_signal = signal.SIGTERM

    def command(self) -> list[str]:
        return [sys.executable, "-m", "celery", "-A", "tasks.celery_app:celery_app", "beat", "--pidfile="]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}

    def is_ready(self) -> bool:
        from tasks.celery_app import celery_app
        from tasks.runtime.scheduler import seconds_since_tick

        return seconds_since_tick(celery_app) is not None


def measure(root: Path, postgres: PostgresServer, broker: RedisServer) -> Queued:
    """Measure, with servers that run."""
    from tasks.storage.migrate import upgrade

    postgres.create_database("queued")
    os.environ["DATABASE_URL"] = postgres.url(WORKER, "queued")
    upgrade(postgres.url(OWNER, "queued"))
    client = redis.Redis(port=broker.port, password=broker.password)
    client.flushall()
    (root / "beat").mkdir()
    connection = psycopg2.connect(libpq(postgres.url(APPLICATION, "queued")))
    with connection.cursor() as cursor, _Beat(root / "beat"):
        cursor.execute("SELECT set_config('metabuilder.tenant_id', %s, false)", (_TENANT,))
        connection.commit()
        delays = []
        for _ in range(_SINGLY):
            cursor.execute(_QUEUE_TASK, (1,))
            connection.commit()
            committed = time.perf_counter()
            if client.brpop([_QUEUE], timeout=_LONGEST_SECONDS) is None:
                raise SystemExit("a task that was queued is not published")
            delays.append(1000 * (time.perf_counter() - committed))
        started = time.perf_counter()
        cursor.execute(_QUEUE_TASK, (_ROWS,))
        written = time.perf_counter() - started
        connection.commit()
        committed = time.perf_counter()
        while client.llen(_QUEUE) < _ROWS and time.perf_counter() - committed < _LONGEST_SECONDS:
            time.sleep(0.01)
        seconds = time.perf_counter() - committed
        if client.llen(_QUEUE) != _ROWS:
            raise SystemExit(f"{client.llen(_QUEUE):,} of {_ROWS:,} tasks were published")
    connection.close()
    client.flushall()
    quantiles = statistics.quantiles(delays, n=100)
    return Queued(
        _ROWS, round(_ROWS / written), round(_ROWS / seconds), round(quantiles[49], 1), round(quantiles[98], 1)
    )
