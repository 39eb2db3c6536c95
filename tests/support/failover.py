"""Servers of PostgreSQL of which one follows the other, and takes over when it is told to."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg2

from native.ports import LOOPBACK
from native.postgres import SUPERUSER, WORKER, libpq, wheel_binaries
from native.unprivileged import identity
from tasks.storage.migrate import upgrade
from tests.support.servers import PostgresServer
from tests.support.worker import wait_until


def standby_of(primary: PostgresServer, root: Path) -> PostgresServer:
    """A standby that streams from the primary, started. Whoever asked for it stops it."""
    source = libpq(primary.superuser_url)
    backup = [str(wheel_binaries() / "pg_basebackup"), "-D", str(root / "data"), "-d", source, "-R", "-X", "stream"]
    subprocess.run([*backup, "-c", "fast"], check=True, capture_output=True)
    server = PostgresServer(root)
    server.postgres = replace(
        server.postgres, passwords=primary.postgres.passwords, settings=primary.postgres.settings
    )
    server._provisioned = True
    server.start()
    return server


class Pair:
    """Two servers, `primary` and `standby`. What the primary has committed is on the standby, too."""

    def __init__(self, primary: PostgresServer, standby: PostgresServer) -> None:
        self.primary, self.standby = primary, standby

    def url(self, *before: int, role: str = WORKER) -> str:
        """The URL of a role with both servers, the standby first; servers with the ports `before` come before it."""
        login = self.primary.url(role).partition("@")[0]
        ports = (*before, self.standby.port, self.primary.port)
        servers = "&".join(f"host={LOOPBACK}:{port}" for port in ports)
        return f"{login}@/metabuilder?{servers}&target_session_attrs=read-write"

    def fail_over(self, *, follow: bool = True) -> None:
        """The primary dies and the standby takes over; with `follow` the old primary comes back as its standby."""
        self._wait_until_standby_has_all()
        self.primary.kill()
        self.promote()
        if follow:
            self.follow()

    def promote(self) -> None:
        """Make the standby the primary, whatever became of the other."""
        self.primary, self.standby = self.standby, self.primary
        ask(self.primary, "SELECT pg_promote()")
        wait_until(lambda: ask(self.primary, "SELECT pg_is_in_recovery()") is False, "the standby is no primary")

    def follow(self) -> None:
        """Start the standby, which was the primary before, so that it follows the new one."""
        source = libpq(self.primary.url(SUPERUSER, "postgres"))
        folder = self.standby.postgres.data
        rewind = [*identity().prefix, wheel_binaries() / "pg_rewind", "-D", folder, f"--source-server={source}"]
        done = subprocess.run(rewind, capture_output=True, text=True, check=False, cwd=folder)
        assert done.returncode == 0, done.stderr
        (folder / "postgresql.auto.conf").write_text(f"primary_conninfo = '{source}'\n")
        (folder / "standby.signal").touch()
        self.standby.start()

    def _wait_until_standby_has_all(self) -> None:
        position = ask(self.primary, "SELECT pg_current_wal_insert_lsn()::text")
        wait_until(
            lambda: ask(self.standby, f"SELECT pg_last_wal_replay_lsn() >= '{position}'::pg_lsn"),
            "the standby does not have what the primary has",
        )


@contextmanager
def running_pair(root: Path) -> Iterator[Pair]:
    """A pair with the schema, which is stopped at the end of the block."""
    # What pg_rewind wants of a server that is to follow.
    primary = PostgresServer(root / "first", settings={"wal_log_hints": "on", "wal_keep_size": "256MB"})
    with primary:
        upgrade(primary.owner_url)
        standby = standby_of(primary, root / "second")
        try:
            yield Pair(primary, standby)
        finally:
            standby.stop()


def ask(server: PostgresServer, question: str) -> object:
    """The first value of the answer to a superuser."""
    connection = psycopg2.connect(libpq(server.url(SUPERUSER)))
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(question)
            row = cursor.fetchone()
    finally:
        connection.close()
    return row[0] if row else None
