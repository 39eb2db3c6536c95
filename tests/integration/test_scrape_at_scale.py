"""What a scrape and the status page cost does not grow with the site: no table is read as a whole, and Redis is asked
as often however long the queues are.

Counted, and not timed: `python -m benchmarks.scrape` has the times.
"""

from collections.abc import Callable, Mapping
from typing import Any

import psycopg2

from benchmarks.scrape import FILL, MAKE_UNWELL, write
from native.postgres import libpq
from tasks.registry import SYNC_EMAILS
from tasks.runtime.publish import publish_many
from tasks.storage.newest import newest_dead_letters, newest_failing_accounts
from tasks.storage.session import get_engine
from tests.conftest import Database
from tests.integration.faults.conftest import broker
from tests.integration.test_exporter import server
from tests.support.application import application
from tests.support.exporter import running_exporter
from tests.support.servers import RedisServer
from tests.support.worker import wait_until

__all__ = ["server"]

# Enough for PostgreSQL to prefer an index for each of the tables, one in sixteen of these rows among them; it reads a
# small table as a whole, which costs nothing.
ACCOUNTS = 20_000
# They have rows for watchers, endpoints, and tasks until beat publishes them, and do not grow with mail or accounts.
SMALL = {"mail_watcher", "webhook", "queued_task"}
# Commands that a connection may begin with, or ask whether the server is there.
RECONNECT = 20
# Those of which an exporter counts rows.
COUNTED = {"email_client", "outbox_message", "dead_letter"}
# Sessions but for the one that asks. A session tells what it read when it ends, at the latest.
SESSIONS = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend' "
    "AND pid <> pg_backend_pid()"
)


def ask(database: Database, statement: str) -> list[tuple[Any, ...]]:
    connection = psycopg2.connect(libpq(database.owner_url))
    with connection, connection.cursor() as cursor:
        cursor.execute(statement)
        rows = cursor.fetchall()
    connection.close()
    return rows


def scans(database: Database, kind: str) -> Mapping[str, int]:
    """How often each table was read as a whole (`seq_scan`), or from an index (`idx_scan`)."""
    rows = ask(database, f"SELECT relname, coalesce({kind}, 0) FROM pg_stat_user_tables")
    return {name: int(count) for name, count in rows}


def more(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    return {name: count - before.get(name, 0) for name, count in after.items() if count > before.get(name, 0)}


def test_what_a_scrape_costs_does_not_grow_with_the_site(
    server: RedisServer, database: Database, environment: Callable[..., None]
) -> None:
    environment(REDIS_URL=server.url)
    write(database.owner_url, FILL, ACCOUNTS)
    write(database.owner_url, MAKE_UNWELL, ACCOUNTS)
    wait_until(lambda: ask(database, SESSIONS) == [(0,)], "the sessions that wrote do not end")
    by_whole, by_index = scans(database, "seq_scan"), scans(database, "idx_scan")

    with application() as app, running_exporter(environment) as exporter, broker(server) as client:

        def commands() -> int:
            """How many commands of Redis a scrape takes, those of scripts included."""
            before = client.info("stats")["total_commands_processed"]
            found = exporter.scrape()
            assert found["metabuilder_queue_messages", "sync"] == client.llen("sync")
            assert found["metabuilder_source_up", "postgresql"] == 1
            return int(client.info("stats")["total_commands_processed"]) - before

        def queue(number: int) -> None:
            publish_many(app.tasks[SYNC_EMAILS], [(f"account-{one}", "tenant", "user") for one in range(number)])

        # Redis is asked as often however long a queue is
        queue(200)
        commands()  # connects
        few = commands()
        queue(5000)
        assert commands() < few + RECONNECT
        # What the status page shows beside the counts
        assert (len(newest_failing_accounts(12)), len(newest_dead_letters(12))) == (12, 12)
        get_engine().dispose()
        exporter.process.terminate()
        exporter.process.wait(30)

    # No table is read as a whole, but for small ones
    wait_until(lambda: ask(database, SESSIONS) == [(0,)], "the exporter's sessions do not end")
    assert more(by_whole, scans(database, "seq_scan")).keys() <= SMALL
    assert more(by_index, scans(database, "idx_scan")).keys() >= COUNTED
    # It would have been seen
    ask(database, "SELECT count(*) FROM email_client WHERE is_enabled")
    assert more(by_whole, scans(database, "seq_scan")).keys() - SMALL == {"email_client"}
