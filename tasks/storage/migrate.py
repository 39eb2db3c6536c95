"""Brings the schema to the newest revision, as the owner's role.

`python -m tasks.storage.migrate` reads the owner's URL from standard input, where no process list shows it, and
prints what it did.
"""

import sys
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError

from tasks.errors import EmailError, StorageUnavailableError

MIGRATIONS = Path(__file__).parent / "migrations"


def upgrade(owner_url: str, revision: str = "head") -> None:
    """Run what is missing, in one transaction under a lock: two at once do the work once."""
    try:
        command.upgrade(_config(owner_url), revision)
    except OperationalError as error:
        raise StorageUnavailableError(str(error.orig).strip().partition("\n")[0]) from error


def downgrade(owner_url: str, revision: str) -> None:
    """Take back revisions down to `revision`, or to "base" all of them, with their data."""
    command.downgrade(_config(owner_url), revision)


def current_and_head(owner_url: str) -> tuple[str | None, str | None]:
    """The revision the database is at (None: no schema yet) and the newest one."""
    engine = create_engine(owner_url)
    try:
        with engine.connect() as connection:
            current = MigrationContext.configure(connection).get_current_revision()
    except OperationalError as error:
        raise StorageUnavailableError(str(error.orig).strip().partition("\n")[0]) from error
    finally:
        engine.dispose()
    return current, ScriptDirectory.from_config(_config(owner_url)).get_current_head()


def _config(owner_url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    # As an attribute, not an option: a password may hold the % that options interpolate.
    config.attributes["owner_url"] = owner_url
    return config


def main() -> None:
    """Migrate the database whose URL is on standard input."""
    owner_url = sys.stdin.readline().strip()
    try:
        before, _ = current_and_head(owner_url)
        upgrade(owner_url)
        after, _ = current_and_head(owner_url)
    except EmailError as error:
        sys.exit(f"error: {error}")
    sys.stdout.write(f"migrated from {before} to {after}\n" if before != after else f"already at {after}\n")


if __name__ == "__main__":
    main()
