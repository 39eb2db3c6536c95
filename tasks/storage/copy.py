"""COPY in PostgreSQL's binary format, from values in their wire form (tasks/storage/wire.py)."""

import io
import struct
from collections.abc import Iterable, Sequence

import psycopg2
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from tasks.storage.session import without_values

_SIGNATURE = b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 0)
_TRAILER = struct.pack("!h", -1)

_columns = struct.Struct("!h").pack


def bulk_insert(connection: Connection, table: str, columns: Sequence[str], rows: Iterable[Sequence[bytes]]) -> None:
    """Insert `rows` into a table with row-level security.

    The rows go through the table's intake view (see the migrations), because PostgreSQL refuses COPY into the table.
    """
    copy_into(connection, f"intake_{table}", columns, rows)


def copy_into(connection: Connection, table: str, columns: Sequence[str], rows: Iterable[Sequence[bytes]]) -> None:
    """Append `rows` in one COPY. Each is a sequence of fields in their wire form; fields may come joined together."""
    head = _columns(len(columns))
    data = b"".join((_SIGNATURE, *(field for row in rows for field in (head, *row)), _TRAILER))
    if len(data) == len(_SIGNATURE) + len(_TRAILER):
        return
    driver_connection = connection.connection.driver_connection
    assert driver_connection is not None
    statement = f"COPY {table} ({', '.join(columns)}) FROM STDIN (FORMAT binary)"
    try:
        with driver_connection.cursor() as cursor:
            # psycopg2 reads all data at once, because each further read would wait for the interpreter lock.
            cursor.copy_expert(statement, io.BytesIO(data), size=len(data))
    except psycopg2.Error as error:
        without_values(error)
        # Raise the error as SQLAlchemy would, for code that tells transient from permanent errors.
        raise DBAPIError.instance(statement, None, error, psycopg2.Error, dialect=connection.dialect) from error
