"""Brings the schema to the newest revision, as the owner's role.

`python -m tasks.storage.migrate` reads the owner's URL from standard input, where no process list shows it, and
prints what it did. `--finish` is run after a deploy, when no worker of the release before is left.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError

from tasks.errors import EmailError, PermanentError, StorageUnavailableError
from tasks.settings import ConfigurationError
from tasks.storage.session import brief, owner_engine

MIGRATIONS = Path(__file__).parent / "migrations"

_WORKERS_ROLE = text(
    """
    SELECT count(*) FROM pg_roles AS worker, pg_roles AS application
    WHERE worker.rolname = 'metabuilder_worker' AND application.rolname = 'metabuilder'
      AND pg_has_role(worker.oid, application.oid, 'USAGE')
    """
)
# The functions that look across tenants and that the application's role itself may call, and not only a member of
# that role.
_STILL_ALLOWED = text(
    """
    SELECT CAST(function.oid AS regprocedure)::text
    FROM pg_proc AS function CROSS JOIN LATERAL aclexplode(function.proacl) AS allowed
    WHERE function.pronamespace = CAST('public' AS regnamespace) AND function.proowner = CAST(current_user AS regrole)
      AND function.prosecdef AND allowed.grantee = CAST('metabuilder' AS regrole)
    """
)


class ReleaseTooOldError(PermanentError):
    """This release is older than the schema of the database."""

    code = "release_too_old"


def upgrade(owner_url: str, revision: str = "head") -> None:
    """Run the migrations that are missing, in one transaction under a lock, so that two calls at once run them once.

    Raises StorageUnavailableError, ConfigurationError where a role is missing, and ReleaseTooOldError.
    """
    current, _ = current_and_head(owner_url)
    if not _is_known(current):
        raise ReleaseTooOldError(
            f"that is at revision {current}, which a newer release made: run that one or a newer one. On a site, "
            "playbooks/rollback.yml goes back without touching the database"
        )
    with _connection(owner_url) as connection:
        if not connection.scalar(_WORKERS_ROLE):
            raise ConfigurationError(
                "PostgreSQL has no role metabuilder_worker that is a member of metabuilder, as which the workers log "
                "in. On a site, `site.yml --tags postgresql` makes it; on a server of your own: "
                "CREATE ROLE metabuilder_worker LOGIN PASSWORD '...' IN ROLE metabuilder"
            )
    try:
        command.upgrade(_config(owner_url), revision)
    except OperationalError as error:
        raise StorageUnavailableError(brief(str(error.orig))) from error


def finish(owner_url: str) -> list[str]:
    """Revoke from the application's role the functions that only workers of earlier releases call as that role.

    To be called when no such workers are left; workers of this release log in as a role of their own. A second call
    does nothing. Returns the functions. Raises StorageUnavailableError.
    """
    with _connection(owner_url) as connection, connection.begin():
        functions = list(connection.scalars(_STILL_ALLOWED))
        for function in functions:
            connection.exec_driver_sql(f"REVOKE EXECUTE ON FUNCTION {function} FROM metabuilder")
    return functions


def downgrade(owner_url: str, revision: str) -> None:
    """Undo revisions down to `revision` ("base": all), with their data."""
    command.downgrade(_config(owner_url), revision)


def current_and_head(owner_url: str) -> tuple[str | None, str | None]:
    """The revision the database is at (None: no schema yet) and the newest one."""
    with _connection(owner_url) as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    return current, ScriptDirectory.from_config(_config(owner_url)).get_current_head()


@contextmanager
def _connection(owner_url: str) -> Iterator[Connection]:
    engine = owner_engine(owner_url)
    try:
        with engine.connect() as connection:
            yield connection
    except OperationalError as error:
        raise StorageUnavailableError(brief(str(error.orig))) from error
    finally:
        engine.dispose()


def _config(owner_url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    # An attribute and not an option, because options interpolate the %, which a password may hold.
    config.attributes["owner_url"] = owner_url
    return config


def main() -> None:
    """Migrate the database whose URL is on standard input, or call `finish` with `--finish`."""
    owner_url = sys.stdin.readline().strip()
    try:
        said = _finish(owner_url) if sys.argv[1:] == ["--finish"] else _migrate(owner_url)
    except EmailError as error:
        sys.exit(f"error: {error}")
    sys.stdout.write(f"{said}\n")


def _migrate(owner_url: str) -> str:
    before, _ = current_and_head(owner_url)
    upgrade(owner_url)
    after, _ = current_and_head(owner_url)
    return f"migrated from {before} to {after}" if before != after else f"already at {after}"


def _is_known(revision: str | None) -> bool:
    """Whether this release has the migration with this revision."""
    known = {script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions()}
    return revision is None or revision in known


def _finish(owner_url: str) -> str:
    functions = finish(owner_url)
    return f"taken from the application's role: {', '.join(functions)}" if functions else "finished already"


if __name__ == "__main__":
    main()
