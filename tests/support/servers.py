"""A PostgreSQL and a Redis of a test's own, as the native stack starts them."""

import secrets
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from psycopg2 import sql

from native.ports import free_port
from native.postgres import APPLICATION, DATABASE, OWNER, SUPERUSER, WORKER, Passwords, Postgres, create_database
from native.process import Server
from native.redis import Redis


class PostgresServer(Server):
    """A PostgreSQL of its own under `root`, with the roles and the database, started directly."""

    name = "postgres"
    stop_signal = signal.SIGINT  # fast shutdown: clients are disconnected, nothing is lost

    def __init__(
        self,
        root: Path,
        *,
        port: int | None = None,
        bin_dir: Path | None = None,
        settings: Mapping[str, str | int] | None = None,
    ) -> None:
        super().__init__(root)
        self.postgres = Postgres(
            data=root / "data",
            port=port or free_port(),
            passwords=Passwords(),
            bin_dir=bin_dir,
            settings=settings or {},
        )
        self.port = self.postgres.port
        self.superuser_url = self.postgres.url(SUPERUSER)
        self.owner_url = self.postgres.url(OWNER)
        self.worker_url = self.postgres.url(WORKER)
        self.app_url = self.postgres.url(APPLICATION)
        # Databases that tests have used, emptied (tests/support/databases.py).
        self.spare: list[Any] = []
        self._provisioned = False

    def start(self) -> None:
        """Start it; the first time, with the roles and the database."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.postgres.init()
        super().start()
        if not self._provisioned:
            self.postgres.provision()
            self._provisioned = True

    def command(self) -> list[str]:
        return self.postgres.command()

    def is_ready(self) -> bool:
        return self.postgres.accepts()

    def create_database(self, name: str) -> None:
        """Another database, empty, with the same owner and the same rights."""
        with self.postgres.superuser() as cursor:
            create_database(cursor, name)

    def drop_database(self, name: str) -> None:
        """Drop a database with whoever is connected to it."""
        with self.postgres.superuser() as cursor:
            cursor.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def url(self, role: str, database: str = DATABASE) -> str:
        """The URL of a role (OWNER, WORKER, APPLICATION or SUPERUSER) for a database."""
        return self.postgres.url(role, database)


class RedisServer(Server):
    """A Redis of its own under `root`, started directly. Its data survives stop and start."""

    name = "redis"

    def __init__(self, root: Path, *, port: int | None = None, password: str | None = None) -> None:
        super().__init__(root)
        self.password = password if password is not None else secrets.token_urlsafe(24)
        self.redis = Redis(root / "data", port or free_port(), self.password)
        self.port = self.redis.port
        self.url = self.redis.url

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.redis.init()
        super().start()

    def command(self) -> list[str]:
        return self.redis.command()

    def is_ready(self) -> bool:
        return self.redis.pongs()
