"""The binary COPY format, read back by PostgreSQL."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.storage import copy, wire
from tasks.storage.session import tenant_transaction
from tests.conftest import TENANT, Database

VALUES = [
    ("text", wire.text, ["", "plain", "tab\t newline\n back\\slash", "日本語 😀", None]),
    ("bytea", wire.binary, [b"", bytes(range(256)), None]),
    ("boolean", wire.boolean, [True, False]),
    ("integer", wire.integer, [0, -1, 2**31 - 1]),
    ("bigint", wire.bigint, [0, -(2**63), 2**63 - 1]),
    ("text[]", wire.text_array, [[], ["a"], ["a", 'b"c', "日本"]]),
    ("jsonb", wire.jsonb, [{}, [], {"Subject": ["tëst", '"quoted"']}, [{"name": "", "address": "a@b"}]]),
    (
        "timestamptz",
        wire.timestamptz,
        [
            datetime(2026, 3, 2, 10, 0, 0, 123456, UTC),
            datetime(1970, 1, 1, tzinfo=UTC),
            datetime(2026, 3, 2, 10, tzinfo=timezone(timedelta(hours=5, minutes=30))),
            None,
        ],
    ),
]


@pytest.mark.parametrize(("sql_type", "encode", "values"), VALUES, ids=[name for name, *_ in VALUES])
def test_values_come_back_as_they_went_in(database: Database, sql_type, encode, values) -> None:
    with tenant_transaction(TENANT) as connection:
        connection.exec_driver_sql(f"CREATE TEMPORARY TABLE t (n serial, value {sql_type}) ON COMMIT DROP")
        copy.copy_into(connection, "t", ["value"], [(encode(value),) for value in values])
        found = connection.exec_driver_sql("SELECT value FROM t ORDER BY n").scalars().all()
    assert [bytes(value) if isinstance(value, memoryview) else value for value in found] == values


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_any_string_is_framed_by_its_length_in_bytes(value: str) -> None:
    data = wire.text(value)
    assert int.from_bytes(data[:4], "big") == len(data) - 4
    assert data[4:].decode() == value
