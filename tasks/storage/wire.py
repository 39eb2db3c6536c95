"""Values as PostgreSQL's binary COPY format has them, written by hand: half the bytes of text, nothing to escape.

Format: https://www.postgresql.org/docs/current/sql-copy.html ("Binary Format"); the fields are what each type's
`recv` function reads. Strings must be free of NUL and lone surrogates. Needs no database, nor its driver.
"""

import struct
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

_TEXT_OID = 25
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

_length = struct.Struct("!i").pack
_int2 = struct.Struct("!ih").pack
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


def smallint(value: int) -> bytes:
    """smallint"""
    return _int2(2, value)


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
