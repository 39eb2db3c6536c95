"""How fast due accounts are queued, beside a plain loop of `.delay()` in the same run; and tasks queued in SQL.

./manage.sh bench dispatch                      100,000 and 1,000,000 accounts
./manage.sh bench dispatch --accounts 10000     one number
./manage.sh bench dispatch --queued             tasks queued in SQL alone
./manage.sh bench dispatch --json               for machines
"""

import json
import os
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import psycopg2
import redis
from rich.console import Console
from rich.table import Table

from benchmarks.queued_tasks import Queued, measure
from benchmarks.support.stack import Worker
from native.postgres import OWNER, WORKER, libpq
from tests.support.servers import PostgresServer, RedisServer

_NUMBERS = (100_000, 1_000_000)
_LOOP_SAMPLE = 5_000
_TASK_SECONDS = 1_000
_ACCOUNTS_PER_TENANT = 20

console = Console(stderr=True)

# One tenant has a tenth of all accounts, the others a few each.
_FILL = """
INSERT INTO credential (tenant_id, id, kind, ciphertext)
SELECT DISTINCT tenant, 'c', 'password', ''::bytea FROM (
  SELECT CASE WHEN n %% 10 = 0 THEN 'large' ELSE 'tenant-' || n / %(per_tenant)s END AS tenant
  FROM generate_series(1, %(count)s) AS n
) AS tenants;
INSERT INTO email_client (tenant_id, id, user_id, account_name, email_address, protocol, hostname, port, encryption,
                          username, credential_id)
SELECT CASE WHEN n %% 10 = 0 THEN 'large' ELSE 'tenant-' || n / %(per_tenant)s END,
       lpad(to_hex(n), 32, '0'), 'user', 'account ' || n, 'a' || n || '@example.org', 'imap', 'imap.example.org', 993,
       'tls', 'a' || n, 'c'
FROM generate_series(1, %(count)s) AS n;
"""


@dataclass(frozen=True)
class Result:
    """One number of due accounts, queued by one run of periodic_sync in a worker, whose child's CPU time and memory
    they are."""

    accounts: int
    seconds: float
    cpu_seconds: float
    accounts_per_second: float
    delay_loop_per_second: float
    ratio: float
    peak_rss_mb: float


@click.command(help=__doc__)
@click.option("--accounts", type=click.IntRange(min=1), help="Only this number.")
@click.option("--queued", "queued_alone", is_flag=True, help="Only tasks queued in SQL.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(accounts: int | None, queued_alone: bool, as_json: bool) -> None:
    root = Path(tempfile.mkdtemp(prefix="bench-dispatch-"))
    root.chmod(0o755)
    try:
        results, queued = _run(root, () if queued_alone else (accounts,) if accounts else _NUMBERS)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    if as_json:
        found = {"due_accounts": [asdict(result) for result in results], "queued_in_sql": asdict(queued)}
        click.echo(json.dumps(found, indent=2))
        return
    if results:
        _show(results)
    _show_queued(queued)


def _run(root: Path, numbers: tuple[int, ...]) -> tuple[list[Result], Queued]:
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    postgres = PostgresServer(root / "postgres", bin_dir=installed[-1] if installed else None)
    with postgres, RedisServer(root / "redis") as broker:
        os.environ.update(
            REDIS_URL=broker.url,
            TASK_TIMEOUT=str(_TASK_SECONDS + 100),
            CELERY_TASK_SOFT_TIME_LIMIT=str(_TASK_SECONDS),
            CELERY_VISIBILITY_TIMEOUT=str(3 * _TASK_SECONDS),
        )
        loop = _delay_loop(broker)
        results = [_measure(root, postgres, broker, number, loop) for number in numbers]
        console.print("tasks queued in SQL …")
        return results, measure(root, postgres, broker)


def _delay_loop(broker: RedisServer) -> float:
    """Messages per second of the plain loop."""
    from tasks.celery_app import sync_emails

    sync_emails.delay("account", "tenant", "user")  # connects
    started = time.perf_counter()
    for number in range(_LOOP_SAMPLE):
        sync_emails.delay(f"account-{number}", "tenant", "user")
    seconds = time.perf_counter() - started
    _client(broker).flushall()
    return _LOOP_SAMPLE / seconds


def _measure(root: Path, postgres: PostgresServer, broker: RedisServer, number: int, loop: float) -> Result:
    from tasks.celery_app import celery_app
    from tasks.storage.migrate import upgrade

    console.print(f"{number:,} accounts …")
    name = f"dispatch_{number}"
    postgres.create_database(name)
    os.environ["DATABASE_URL"] = postgres.url(WORKER, name)
    upgrade(postgres.url(OWNER, name))
    _fill(postgres.url(OWNER, name), number)
    folder = root / name
    folder.mkdir()
    with _Dispatcher(folder) as worker:
        started, used = time.perf_counter(), worker.child_cpu_seconds()
        result = celery_app.send_task("email_service.tasks.periodic_sync").get(timeout=_TASK_SECONDS, interval=0.01)
        seconds = time.perf_counter() - started
        peak, used = worker.child_peak_mb(), worker.child_cpu_seconds() - used
    client = _client(broker)
    queued = client.llen("sync")
    if (result["accounts_synced"], queued) != (number, number):
        raise SystemExit(f"{result['accounts_synced']} queued of {number}, and {queued} are in the queue")
    client.flushall()
    postgres.drop_database(name)
    return Result(
        accounts=number,
        seconds=round(seconds, 2),
        cpu_seconds=round(used, 2),
        accounts_per_second=round(number / seconds),
        delay_loop_per_second=round(loop),
        ratio=round(number / seconds / loop, 1),
        peak_rss_mb=round(peak, 1),
    )


class _Dispatcher(Worker):
    """A worker for the dispatcher only, so that what it queues stays in the queue."""

    def command(self) -> list[str]:
        return [*super().command(), "--queues=periodic"]


def _fill(owner_url: str, number: int) -> None:
    with psycopg2.connect(libpq(owner_url)) as connection, connection.cursor() as cursor:
        cursor.execute(_FILL, {"count": number, "per_tenant": _ACCOUNTS_PER_TENANT})
    connection.close()
    connection = psycopg2.connect(libpq(owner_url))
    connection.autocommit = True
    connection.cursor().execute("VACUUM ANALYZE email_client")
    connection.close()


def _client(broker: RedisServer) -> redis.Redis:
    return redis.Redis(port=broker.port, password=broker.password)


def _show(results: list[Result]) -> None:
    table = Table(title="Due accounts queued by periodic_sync; CPU and memory of the worker's child")
    headings = ("accounts", "seconds", "CPU seconds", "accounts/s", ".delay() loop/s", "ratio", "peak MB")
    for heading in headings:
        table.add_column(heading, justify="right")
    for result in results:
        table.add_row(
            f"{result.accounts:,}",
            f"{result.seconds:.1f}",
            f"{result.cpu_seconds:.1f}",
            f"{result.accounts_per_second:,.0f}",
            f"{result.delay_loop_per_second:,.0f}",
            f"{result.ratio:.1f}",
            f"{result.peak_rss_mb:.0f}",
        )
    Console(width=100).print(table)


def _show_queued(queued: Queued) -> None:
    table = Table(title="Tasks queued in SQL, published by one beat; delay from the commit to the queue")
    for heading in ("rows", "written/s", "published/s", "p50 ms", "p99 ms"):
        table.add_column(heading, justify="right")
    table.add_row(
        f"{queued.rows:,}",
        f"{queued.written_per_second:,.0f}",
        f"{queued.published_per_second:,.0f}",
        f"{queued.p50_ms:.1f}",
        f"{queued.p99_ms:.1f}",
    )
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
