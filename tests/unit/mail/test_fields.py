"""Beside the fixtures date_*.eml and message_ids*.eml."""

from datetime import UTC, datetime

import pytest

from tasks.mail.fields import date, identifiers


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Mon, 02 Mar 2026 10:00:00 +0000", datetime(2026, 3, 2, 10, tzinfo=UTC)),
        ("2 mar 2026 10:00 -0800", datetime(2026, 3, 2, 18, tzinfo=UTC)),
        ("Mon, 2 Mar 2026 10:00:00 GMT", datetime(2026, 3, 2, 10, tzinfo=UTC)),
        ("Mon Mar  2 10:00:00 2026", datetime(2026, 3, 2, 10, tzinfo=UTC)),
        ("Tue, 01 Jan 1980 00:00:00 +1400 (X)", datetime(1979, 12, 31, 10, tzinfo=UTC)),
        ("2026-03-02 10:00:00+01:00", datetime(2026, 3, 2, 9, tzinfo=UTC)),
        ("", None),
        ("0", None),
        ("Mon, 02 Xyz 2026 10:00:00 +0000", None),
        ("Mon, 02 Mar 1900 10:00:00 +0000", None),
        ("Mon, 02 Mar 2026 10:00:00 +2400", None),
        ("2026-99-99", None),
        ("1" * 5000, None),
        (",,,,,", None),
        ("Mon, 02 Mar 2026 ::: +0000", None),
        ("Mon, 02 Mar 2026 99999999999999999999:00 +0000", None),
    ],
)
def test_date(value: str, expected: datetime | None) -> None:
    assert date(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", ()),
        ("<a@b>", ("a@b",)),
        ("<a@b><c@d>", ("a@b", "c@d")),
        ("<a\tb@c>", ("ab@c",)),
        ("<>", ()),
        ("< >", ()),
        ("<<a@b>>", ("a@b",)),
        ("a@b", ("a@b",)),
        ("words only", ()),
        (f"<{'x' * 2000}>", ("x" * 998,)),
    ],
)
def test_identifiers(value: str, expected: tuple[str, ...]) -> None:
    assert identifiers(value) == expected
