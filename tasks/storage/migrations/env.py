"""Alembic's entry: one connection, one transaction, one migrator at a time."""

from alembic import context
from sqlalchemy import text

from tasks.storage.models import Base
from tasks.storage.session import owner_engine

# The number of the lock that a migrator holds; any constant would do.
_MIGRATION_LOCK = 0x6D657461

engine = owner_engine(context.config.attributes["owner_url"])
try:
    with engine.connect() as connection:
        context.configure(connection=connection, target_metadata=Base.metadata, compare_server_default=True)
        with context.begin_transaction():
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK})
            context.run_migrations()
finally:
    engine.dispose()
