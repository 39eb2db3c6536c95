"""`psql`: PostgreSQL's own client with the right server, role, TLS and password, read-only unless asked."""

import os
import shutil
import sys

import click

from manage.examples import example
from manage.place import IS_HOST
from manage.session import connect
from native.errors import StackError

# psql reads these, so that no password is in a process list (libpq, "Environment Variables").
_VARIABLES = {
    "host": "PGHOST",
    "port": "PGPORT",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "dbname": "PGDATABASE",
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
    "connect_timeout": "PGCONNECT_TIMEOUT",
}
# psql itself waits for minutes for a server behind a closed firewall, and for ever for one that hangs.
_PATIENCE_SECONDS = "5"


@example(
    "psql --tenant acme -c 'SELECT count(*) FROM email_message'",
    "psql -c 'SELECT * FROM pg_stat_activity'",
    fails="psql failed, or is not installed",
)
@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--tenant", help="Whose rows are seen. Without a tenant, tables of mail are empty.")
@click.option("--write", is_flag=True, help="Transactions may change rows.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def psql(tenant: str | None, write: bool, arguments: tuple[str, ...]) -> None:
    """Open psql as the role of the workers. What follows is passed to psql.

    Transactions are read-only, unless `--write` is given.
    """
    connect()
    program = _program()
    sys.stdout.flush()
    # -X: what somebody's .psqlrc says must not change what a script reads.
    os.execve(program, (program, "-X", *arguments), _environment(tenant, write=write))  # noqa: S606 - no shell is wanted


def _environment(tenant: str | None, *, write: bool) -> dict[str, str]:
    from sqlalchemy import make_url

    from tasks.settings import get_settings

    url = make_url(get_settings().database.url.get_secret_value())
    _, parts = url.get_dialect()().create_connect_args(url)
    environment = {_VARIABLES[name]: str(value) for name, value in parts.items() if name in _VARIABLES}
    options = [parts.get("options", "")]
    if not write:
        options.append("-c default_transaction_read_only=on")
        if "target_session_attrs" in parts:
            # A session that is to be read-only would be refused as one that is not "read-write".
            environment["PGTARGETSESSIONATTRS"] = "primary"
    if tenant is not None:
        escaped = tenant.replace("\\", "\\\\").replace(" ", "\\ ")
        options.append(f"-c metabuilder.tenant_id={escaped}")
    return {
        "PGCONNECT_TIMEOUT": _PATIENCE_SECONDS,
        **os.environ,
        **environment,
        "PGOPTIONS": " ".join(filter(None, options)),
        "PGAPPNAME": "metabuilder psql",
    }


def _program() -> str:
    places = os.environ.get("PATH", os.defpath)
    if not IS_HOST:
        from native.postgres import wheel_binaries

        places = f"{wheel_binaries()}:{places}"
    if found := shutil.which("psql", path=places):
        return found
    raise StackError("psql is not installed here. As root, run: apt-get install postgresql-client")
