"""Databases for tests: each is empty and has the schema, and is used again after it is emptied.

Making and dropping a database takes ten times as long as emptying it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2

from native.postgres import APPLICATION, DATABASE, OWNER, SUPERUSER, WORKER, libpq
from tests.support.servers import PostgresServer

# A database that has grown by more is not used again: deleted rows would slow down the next tests.
_MAX_GROWTH_BYTES = 4 * 1024 * 1024

_DISCONNECT_ALL = """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
"""

_DELETE_ALL = """
    SELECT string_agg(format('DELETE FROM public.%I', relname), ';') FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname <> 'alembic_version'
"""

_SIZE = "SELECT pg_database_size(current_database())"

# What a test may have changed that deleting rows does not change back.
_SCHEMA = """
    SELECT md5(string_agg(line, ' ' ORDER BY line)) FROM (
        SELECT concat_ws(' ', oid, relname, relkind, relowner, relacl, relrowsecurity, relforcerowsecurity)
            FROM pg_class WHERE relnamespace = 'public'::regnamespace
        UNION ALL SELECT concat_ws(' ', attrelid, attname, atttypid, attnotnull, attacl, attisdropped)
            FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
            WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v')
        UNION ALL SELECT pg_proc::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace
        UNION ALL SELECT pg_policy::text FROM pg_policy
        UNION ALL SELECT pg_constraint::text FROM pg_constraint WHERE connamespace = 'public'::regnamespace
        UNION ALL SELECT pg_trigger::text FROM pg_trigger
        UNION ALL SELECT pg_namespace::text FROM pg_namespace WHERE nspname NOT LIKE 'pg\\_%'
        UNION ALL SELECT concat_ws(' ', datacl, datallowconn, datconnlimit)
            FROM pg_database WHERE datname = current_database()
        UNION ALL SELECT pg_db_role_setting::text FROM pg_db_role_setting
        UNION ALL SELECT version_num FROM alembic_version
    ) AS lines (line)
"""


class Database:
    """A database of a test's own. Raises the errors of psycopg2."""

    def __init__(self, server: PostgresServer, name: str, template: str = DATABASE) -> None:
        self.server, self.name = server, name
        self.worker_url = server.url(WORKER, name)
        self.app_url = server.url(APPLICATION, name)
        self.owner_url = server.url(OWNER, name)
        with server.postgres.superuser() as cursor:
            cursor.execute(f"CREATE DATABASE {name} OWNER {OWNER} TEMPLATE {template}")
            cursor.execute(f"GRANT CONNECT, TEMPORARY ON DATABASE {name} TO {APPLICATION}")
        with self._superuser() as cursor:
            self._made, self._bytes = _value(cursor, _SCHEMA), _value(cursor, _SIZE)
            self._delete_all = _value(cursor, _DELETE_ALL)

    def copy(self, name: str) -> "Database":
        """Another database as this one is now. Ends all connections to this one."""
        with self._superuser() as cursor:
            cursor.execute(_DISCONNECT_ALL)
        return Database(self.server, name, self.name)

    def empty(self) -> bool:
        """End all its connections and delete all rows.

        Returns whether the database is as it was when it was made: False if the test has changed the schema, or left
        very much behind.
        """
        with self._superuser() as cursor:
            cursor.execute(_DISCONNECT_ALL)
            if _value(cursor, _SCHEMA) != self._made or _value(cursor, _SIZE) > self._bytes + _MAX_GROWTH_BYTES:
                return False
            cursor.execute("SET session_replication_role = replica")  # no triggers, no foreign keys
            cursor.execute(self._delete_all)
        return True

    @contextmanager
    def _superuser(self) -> Iterator[Any]:
        connection = psycopg2.connect(libpq(self.server.url(SUPERUSER, self.name)))
        connection.autocommit = True
        try:
            yield connection.cursor()
        finally:
            connection.close()


def _value(cursor: Any, query: str) -> Any:
    cursor.execute(query)
    return cursor.fetchone()[0]
