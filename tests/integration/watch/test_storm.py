"""Many connections that end at once: the logins that follow stay under the limit of their mail server."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psycopg2

from benchmarks.support.stack import PASSWORD
from benchmarks.support.watching import COPY_ACCOUNTS, HOST, scripted_server
from native.postgres import SUPERUSER, libpq
from tests.conftest import Database, register, sync
from tests.support.application import Broker
from tests.support.mailbox import Mailbox
from tests.support.stored import rows
from tests.support.watcher import running_watcher
from tests.support.worker import wait_until

ACCOUNTS = 150
LOGINS_PER_SECOND = 15


def connected() -> object:
    return rows("SELECT count(*) FROM email_client WHERE watched_since IS NOT NULL")[0][0]


def test_connections_that_end_at_once_are_made_again_under_the_limit_of_logins(
    database: Database, broker: Broker, environment: Callable[..., None], tmp_path: Path
) -> None:
    environment(WATCH_HOST_LOGINS_PER_SECOND=str(LOGINS_PER_SECOND), MAIL_TIMEOUT="60")
    with scripted_server(None) as server:
        sync(register(Mailbox(HOST, server.port, "user-0", PASSWORD)))
        superuser = libpq(database.server.url(SUPERUSER, database.name))
        with closing(psycopg2.connect(superuser)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(COPY_ACCOUNTS, {"first": 1, "last": ACCOUNTS - 1})
        before = len(server.logins())
        with running_watcher(tmp_path):
            wait_until(lambda: connected() == ACCOUNTS, "not all are watched")
            dropped = server.drop()
            wait_until(lambda: len(server.logins()) == before + 2 * ACCOUNTS, "not all have logged in again")
            wait_until(lambda: connected() == ACCOUNTS, "not all are watched again")
            again = [moment - dropped for moment in server.logins()[before + ACCOUNTS :]]
    # A slow machine makes them later, and never sooner.
    assert all(moment >= number / LOGINS_PER_SECOND for number, moment in enumerate(again))
