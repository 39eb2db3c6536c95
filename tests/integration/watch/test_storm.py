"""Many connections that end at once: the logins that follow stay under the limit of their mail server."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psycopg2

from benchmarks.support.stack import PASSWORD
from benchmarks.support.watching import COPY_ACCOUNTS, HOST, scripted_server
from native.postgres import SUPERUSER, libpq
from tasks.watch.watcher import CONNECTIONS
from tests.conftest import Database, register, sync
from tests.support.application import Broker
from tests.support.mailbox import Mailbox
from tests.support.stored import rows
from tests.support.watcher import running_watcher
from tests.support.worker import wait_until

ACCOUNTS = 1000
LOGINS_PER_SECOND = 40
# So many logins after the end of all connections are looked at.
LOGINS = 300
# On a machine that manages a few logins in a second.
LONG_SECONDS = 200
# What is not the watcher's: of the test itself.
OTHER_SESSIONS = 20


def connected() -> object:
    return rows("SELECT count(*) FROM email_client WHERE watched_since IS NOT NULL")[0][0]


def sessions() -> int:
    """How many connections to the database were made so far."""
    return int(str(rows("SELECT sessions FROM pg_stat_database WHERE datname = current_database()")[0][0]))


def test_connections_that_end_at_once_are_made_again_under_the_limit_of_logins(
    database: Database, broker: Broker, environment: Callable[..., None], tmp_path: Path
) -> None:
    environment(WATCH_HOST_LOGINS_PER_SECOND=str(LOGINS_PER_SECOND), MAIL_TIMEOUT="60")
    with scripted_server(None) as server:
        sync(register(Mailbox(HOST, server.port, "user-0", PASSWORD)))
        superuser = libpq(database.server.url(SUPERUSER, database.name))
        with closing(psycopg2.connect(superuser)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(COPY_ACCOUNTS, {"first": 1, "last": ACCOUNTS - 1})
        made_before = sessions()
        with running_watcher(tmp_path):
            wait_until(lambda: connected() == ACCOUNTS, "not all are watched", LONG_SECONDS)
            dropped = server.drop()
            wait_until(lambda: len(server.logins(dropped)) >= LOGINS, "they do not log in again", LONG_SECONDS)
            again = [moment - dropped for moment in server.logins(dropped)]
            made = sessions() - made_before
    # A slow machine makes them later, and never sooner.
    assert all(moment >= number / LOGINS_PER_SECOND for number, moment in enumerate(again))
    # Nor do the logins cause a storm of connections at PostgreSQL: each thread has one, and keeps it.
    assert made <= CONNECTIONS + OTHER_SESSIONS
