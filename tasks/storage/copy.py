"""PostgreSQL's binary COPY format, written by hand: half the bytes of the text format, and nothing to escape.

Format: https://www.postgresql.org/docs/current/sql-copy.html ("Binary Format"); the fields are what each type's
`recv` function reads. Strings must be free of NUL and lone surrogates.
"""

import io
import struct
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import psycopg2
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

_SIGNATURE = b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 0)
_TRAILER = struct.pack("!h", -1)
_TEXT_OID = 25
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

_length = struct.Struct("!i").pack
_columns = struct.Struct("!h").pack
_int4 = struct.Struct("!ii").pack
_int8 = struct.Struct("!iq").pack
_float4 = struct.Struct("!if").pack
_array_head = struct.Struct("!iiiii").pack

NULL = _length(-1)
TRUE = _length(1) + b"\1"
FALSE = _length(1) + b"\0"
EMPTY_JSONB = _length(3) + b"\1[]"


def text(value: str | None) -> bytes:
    """text"""
    if value is None:
        return NULL
    data = value.encode()
    return _length(len(data)) + data


def binary(value: bytes | None) -> bytes:
    """bytea"""
    return NULL if value is None else _length(len(value)) + value


def boolean(value: bool) -> bytes:
    """boolean"""
    return TRUE if value else FALSE


def integer(value: int) -> bytes:
    """integer"""
    return _int4(4, value)


def bigint(value: int) -> bytes:
    """bigint"""
    return _int8(8, value)


def real(value: float | None) -> bytes:
    """real"""
    return NULL if value is None else _float4(4, value)


def timestamptz(value: datetime | None) -> bytes:
    """timestamp with time zone, from an aware datetime: microseconds since 2000-01-01 UTC"""
    return NULL if value is None else _int8(8, (value - _EPOCH) // _MICROSECOND)


def jsonb(value: Any) -> bytes:
    """jsonb, version 1 of its wire format"""
    data = orjson.dumps(value)
    return _length(len(data) + 1) + b"\1" + data


def text_array(values: Sequence[str]) -> bytes:
    """text[] of one dimension, without NULLs"""
    if not values:
        data = struct.pack("!iii", 0, 0, _TEXT_OID)
    else:
        data = _array_head(1, 0, _TEXT_OID, len(values), 1) + b"".join(text(value) for value in values)
    return _length(len(data)) + data


def bulk_insert(connection: Connection, table: str, columns: Sequence[str], rows: Iterable[Sequence[bytes]]) -> None:
    """Insert `rows` into a table with row-level security.

    They go through the table's intake view (see the migrations), since COPY into the table itself is refused.
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
            # One read of it all: each further read would wait for the interpreter's lock.
            cursor.copy_expert(statement, io.BytesIO(data), size=len(data))
    except psycopg2.Error as error:
        # As SQLAlchemy raises it, for those who tell what passes from what does not.
        raise DBAPIError.instance(statement, None, error, psycopg2.Error, dialect=connection.dialect) from error
