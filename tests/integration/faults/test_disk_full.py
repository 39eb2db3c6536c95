"""PostgreSQL's disk is full in the middle of a first sync: nothing is lost, and it goes on when there is room."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest

from native.dovecot import Dovecot
from native.postgres import SUPERUSER, WORKER, libpq
from native.stores import postgres_answers
from native.unprivileged import identity
from tests.conftest import Database, as_superuser, register, unavailable
from tests.integration.faults.conftest import Queue
from tests.support.mailbox import Mailbox, message
from tests.support.maildir import fill
from tests.support.servers import PostgresServer
from tests.support.stored import assert_counts_agree, column, quarantine, rows, stored_uids
from tests.support.worker import Worker, wait_until

ALL = list(range(1, 201))


class SmallDisk:
    """A file system of its own, of one megabyte, that holds the messages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def grow(self) -> None:
        subprocess.run(["mount", "-o", "remount,size=64m", str(self.folder)], check=True)


@pytest.fixture
def small_disk(postgres: PostgresServer, database: Database) -> Iterator[SmallDisk]:
    folder = postgres.root / "small_disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        folder.rmdir()
        unavailable(f"a small disk cannot be mounted: {mounted.stderr.strip()}")
    try:
        space = folder / "space"
        space.mkdir(mode=0o700)
        identity().hand_over(space)
        as_superuser(postgres, f"CREATE TABLESPACE small_disk LOCATION '{space}'")
        # Rows that earlier tests deleted take up space in the file.
        in_database(database, "TRUNCATE email_message CASCADE")
        in_database(database, "ALTER TABLE email_message SET TABLESPACE small_disk")
        yield SmallDisk(folder)
    finally:
        in_database(database, f"REVOKE CREATE ON TABLESPACE small_disk FROM {WORKER}")
        in_database(database, "ALTER TABLE email_message SET TABLESPACE pg_default")
        as_superuser(postgres, "CHECKPOINT", "DROP TABLESPACE IF EXISTS small_disk")
        # Lazily: a process of the server may hold a dropped file open for a moment.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


def in_database(database: Database, statement: str) -> None:
    connection = psycopg2.connect(libpq(database.server.url(SUPERUSER, database.name)))
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(statement)
    connection.close()


def test_health_says_that_the_disk_is_full(database: Database, small_disk: SmallDisk) -> None:
    assert postgres_answers().ok
    # Where PostgreSQL sorts
    in_database(database, f"GRANT CREATE ON TABLESPACE small_disk TO {WORKER}")
    in_database(database, f"ALTER ROLE {WORKER} IN DATABASE {database.name} SET temp_tablespaces = small_disk")
    check = postgres_answers()
    assert not check.ok
    assert "No space left on device" in check.detail


def test_a_full_disk_loses_nothing_and_the_sync_goes_on_when_there_is_room(
    dovecot: Dovecot, mailbox: Mailbox, small_disk: SmallDisk, worker: Worker, tasks_queue: Queue
) -> None:
    # Given four megabytes of mail that no compression makes smaller
    fill(dovecot, mailbox, (message(n, body=os.urandom(10_000).hex()) for n in ALL))
    account = register(mailbox)

    # When the disk has room for a quarter of it
    task = tasks_queue.sync(account)
    wait_until(lambda: rows("SELECT 1 FROM email_client WHERE last_error_code IS NOT NULL"), "no error is noted")

    # Then the account says so, and whole batches are stored or nothing
    ((code, said),) = rows("SELECT last_error_code, last_error FROM email_client")
    assert code == "storage_unavailable"
    assert "No space left on device" in str(said)
    assert 0 < len(stored_uids()) < len(ALL)
    assert stored_uids() == ALL[: len(stored_uids())]
    assert_counts_agree()

    # When there is room, the same task finishes
    small_disk.grow()
    assert task.get(timeout=90)["status"] == "success"
    assert stored_uids() == ALL
    assert quarantine() == {}
    assert column("SELECT last_error_code FROM email_client") == [None]
    assert_counts_agree()
