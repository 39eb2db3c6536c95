"""How long a scrape of the exporter takes, with many accounts, queued tasks and dead letters.

./manage.sh bench scrape                      100,000 accounts and tasks
./manage.sh bench scrape --accounts 10000     another number
./manage.sh bench scrape --json               for machines
"""

import json
import os
import shutil
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import psycopg2
from rich.console import Console
from rich.table import Table

from native.postgres import OWNER, WORKER, libpq
from tests.support.servers import PostgresServer, RedisServer

_SCRAPES = 20
_DATABASE = "scrape"

console = Console(stderr=True)

# Tenants of twenty accounts, each of which has been synced and is due within minutes.
FILL = """
INSERT INTO credential (tenant_id, id, kind, ciphertext)
SELECT 'tenant-' || n, 'c', 'password', ''::bytea FROM generate_series(0, %(count)s / 20) AS n;
INSERT INTO email_client (tenant_id, id, user_id, account_name, email_address, protocol, hostname, port, encryption,
                          username, credential_id, last_sync_at, next_sync_at)
SELECT 'tenant-' || n / 20, lpad(to_hex(n), 32, '0'), 'user', 'account ' || n, 'a' || n || '@example.org', 'imap',
       'imap.example.org', 993, 'tls', 'a' || n, 'c', now(), now() + interval '1 day'
FROM generate_series(1, %(count)s) AS n;
"""
# A site at its worst: each account is late, each eighth fails, and each sixteenth has mail that waits and a task that
# failed for good.
MAKE_UNWELL = """
UPDATE email_client SET next_sync_at = now() - interval '20 minutes';
UPDATE email_client SET failing_since = now(), last_error_code = 'connection_lost'
WHERE id LIKE '%%0' OR id LIKE '%%8';
INSERT INTO outbox_message (tenant_id, id, email_client_id, key, digest, state, message_id, sender, recipients, size)
SELECT tenant_id, id, id, id, '', CASE WHEN id LIKE '%%1' THEN 'queued' ELSE 'sent' END, '', '', '[]', 0
FROM email_client;
INSERT INTO dead_letter (tenant_id, id, task_key, task_name, task_id, shown_arguments, credential_id, error_code,
                         error, traceback, attempts)
SELECT tenant_id, id, id, 'email_service.tasks.sync_emails', id, '{}', 'c', 'x', '', '', 1
FROM email_client WHERE id LIKE '%%2';
"""
# To read a table without rows as a whole costs nothing.
_SEQUENTIAL_SCANS = "SELECT coalesce(sum(seq_scan), 0) FROM pg_stat_user_tables WHERE n_live_tup > 0"


@dataclass(frozen=True)
class Result:
    """Scrapes of one site, in seconds. `table_scans` is how many tables the scrapes read as a whole."""

    site: str
    accounts: int
    queued: int
    median: float
    longest: float
    redis: float
    postgresql: float
    table_scans: int
    bytes: int


@click.command(help=__doc__)
@click.option("--accounts", type=click.IntRange(min=1), default=100_000, help="How many accounts and tasks.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(accounts: int, as_json: bool) -> None:
    root = Path(tempfile.mkdtemp(prefix="bench-scrape-"))
    root.chmod(0o755)
    try:
        results = _run(root, accounts)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    if as_json:
        click.echo(json.dumps([asdict(result) for result in results], indent=2))
    else:
        _show(results)


def _run(root: Path, number: int) -> list[Result]:
    from tasks.storage.migrate import upgrade

    with PostgresServer(root / "postgres") as postgres, RedisServer(root / "redis") as broker:
        postgres.create_database(_DATABASE)
        owner_url = postgres.url(OWNER, _DATABASE)
        os.environ.update(REDIS_URL=broker.url, DATABASE_URL=postgres.url(WORKER, _DATABASE))
        upgrade(owner_url)
        console.print(f"{number:,} accounts and tasks …")
        write(owner_url, FILL, number)
        _queue(number)
        well = _measure("well", number, owner_url)
        write(owner_url, MAKE_UNWELL, number)
        return [well, _measure("unwell", number, owner_url)]


def write(owner_url: str, statements: str, number: int) -> None:
    """Run the statements for so many accounts, and let PostgreSQL know the tables as a site that runs does."""
    connection = psycopg2.connect(libpq(owner_url))
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(statements, {"count": number})
        cursor.execute("VACUUM ANALYZE email_client")
        cursor.execute("VACUUM ANALYZE outbox_message")
        cursor.execute("VACUUM ANALYZE dead_letter")
    connection.close()


def _queue(number: int) -> None:
    from tasks.celery_app import sync_emails
    from tasks.runtime.publish import publish_many

    publish_many(sync_emails, [(f"account-{one}", "tenant", "user") for one in range(number)])


def _measure(site: str, number: int, owner_url: str) -> Result:
    from prometheus_client.exposition import generate_latest
    from prometheus_client.parser import text_string_to_metric_families
    from prometheus_client.registry import CollectorRegistry

    from tasks.celery_app import celery_app
    from tasks.monitoring.exporter.collector import SiteCollector

    registry = CollectorRegistry()
    registry.register(SiteCollector(celery_app))
    generate_latest(registry)  # connects
    scans = _sequential_scans(owner_url)
    took, text = [], b""
    for _ in range(_SCRAPES):
        began = time.perf_counter()
        text = generate_latest(registry)
        took.append(time.perf_counter() - began)
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }
    if not samples["metabuilder_source_up", "redis"] == samples["metabuilder_source_up", "postgresql"] == 1:
        raise SystemExit("a source could not be read")
    return Result(
        site=site,
        accounts=number,
        queued=int(samples["metabuilder_queue_messages", "sync"]),
        median=round(statistics.median(took), 3),
        longest=round(max(took), 3),
        redis=round(samples["metabuilder_source_seconds", "redis"], 3),
        postgresql=round(samples["metabuilder_source_seconds", "postgresql"], 3),
        table_scans=_sequential_scans(owner_url) - scans,
        bytes=len(text),
    )


def _sequential_scans(owner_url: str) -> int:
    time.sleep(1.5)  # sessions report what they did once a second
    with psycopg2.connect(libpq(owner_url)) as connection, connection.cursor() as cursor:
        cursor.execute(_SEQUENTIAL_SCANS)
        [[scans]] = cursor.fetchall()
    connection.close()
    return int(scans)


def _show(results: list[Result]) -> None:
    table = Table(title=f"{_SCRAPES} scrapes")
    names = list(asdict(results[0]))
    for name in names:
        table.add_column(name, justify="right")
    for result in results:
        table.add_row(*(f"{value:,}" if isinstance(value, int) else str(value) for value in asdict(result).values()))
    console.print(table)


if __name__ == "__main__":
    main()
