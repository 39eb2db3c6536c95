"""Beside the fixtures date_*.eml."""

from datetime import UTC, datetime

import pytest

from tasks.mail.parse.dates import date


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


# All of them are 3 March 2025, 9:00 UTC.
SAME_INSTANT = [
    "Mon, 3 Mar 2025 10:00:00 +0100",
    # Comments wherever they are seen.
    "Mon, 3 Mar 2025 10:00:00 (CET) +0100",
    "3 Mar 2025 (Monday) 10:00:00 +0100",
    "Mon (a (nested) comment), 3 (third) Mar 2025 10:00:00 +0100 (CET) (again)",
    "(before) Mon, 3 Mar 2025 10:00:00 +0100",
    "Mon, 3 Mar 2025 10:00:00 +0100 (never closed",
    "Mon, 3 Mar 2025 10:00:00 (CET)",
    "Mon, 3 Mar 2025 10:00:00 (GMT+01:00)",
    "Mon, 3 Mar 2025 04:00:00 -0500 (EST)",
    "Mon, 3 Mar 2025 17:00:00 +0800 (CST)",
    # Zones.
    "Mon, 3 Mar 2025 10:00:00 +01:00",
    "Mon, 3 Mar 2025 10:00:00+0100",
    "Mon, 3 Mar 2025 10:00:00 + 0100",
    "Mon, 3 Mar 2025 10:00:00 +01:00:00",
    "Mon, 3 Mar 2025 10:00:00 +010000",
    "Mon, 3 Mar 2025 10:00:00 +1",
    "Mon, 3 Mar 2025 10:00:00 +100",
    "Mon, 3 Mar 2025 04:00:00 \u22120500",
    "Mon, 3 Mar 2025 11:00:00 GMT+0200",
    "Mon, 3 Mar 2025 11:00:00 GMT +0200",
    "Mon, 3 Mar 2025 11:00:00 GMT+02:00 (Eastern European Time)",
    "Mon, 3 Mar 2025 11:00:00 UTC+2",
    "Mon, 3 Mar 2025 11:00:00 CEST",
    "Mon, 3 Mar 2025 11:00:00 MESZ",
    "Mon, 3 Mar 2025 10:00:00 CET",
    "Mon, 3 Mar 2025 10:00:00 BST",
    "Mon, 3 Mar 2025 06:30:00 NDT",
    "Mon, 3 Mar 2025 18:00:00 JST",
    "Mon, 3 Mar 2025 03:00:00 CST",
    "Mon, 3 Mar 2025 01:00:00 Pacific Standard Time",
    "Mon, 3 Mar 2025 09:00:00 -0000",
    "Mon, 3 Mar 2025 09:00:00 Z",
    "Mon, 3 Mar 2025 09:00:00 A",
    "Mon, 3 Mar 2025 09:00:00",
    "Mon, 3 Mar 2025 10:00:00 +0100 CET",
    "Mon Mar  3 10:00:00 2025 +0100",
    "Mon Mar  3 10:00:00 CET 2025",
    "Mon Mar  3 10:00:00 +0100 2025",
    # Clocks.
    "Mon, 3 Mar 2025 10:00:00 AM +0100",
    "Mon, 3 Mar 2025 10:00 a.m. +0100",
    "Mon, 3 Mar 2025 9:00 PM +1200",
    "Mon, 3 Mar 2025 09:00:00p.m. +1200",
    "Mon, 3 Mar 2025 12:00 AM -0900",
    "Mon, 3 Mar 2025 12:00:00 PM +0300",
    "Mon, 3 Mar 2025 13:00:00 PM +0400",
    "Sun, 2 Mar 2025 24:00:00 -0900",
    "Mon, 3 Mar 2025 10:00:00.123 +0100",
    "Mon, 3 Mar 2025 10:00:00,5 +0100",
    "Mon, 3 Mar 2025 10.00.00 +0100",
    "Mon, 3 Mar 2025 10 : 00 : 00 +0100",
    "Mon, 3 Mar 2025 10:00 +0100",
    # Days.
    "Mon,3 Mar 2025 10:00:00 +0100",
    "Mon 3 Mar 2025 10:00:00 +0100",
    "Monday, 3 March 2025 10:00:00 +0100",
    "Monday, March 3, 2025 10:00:00 AM +0100",
    "Monday, March 3rd, 2025 at 10:00 AM CET",
    "10:00 AM CET on March 3, 2025",
    "3 Mar 25 10:00:00 +0100",
    "3 Mar 125 10:00:00 +0100",
    "3-Mar-2025 10:00:00 +0100",
    "03.03.2025 10:00:00 +0100",
    "03/03/2025 10:00:00 +0100",
    "2025/03/03 10:00:00 +0100",
    "2025-03-03T10:00:00.5+01:00",
    "2025-03-03 10:00:00 +0100",
    "20250303T090000Z",
    "Date: Mon, 3 Mar 2025 10:00:00 +0100",
    "Mon, 3 Mar 2025 10:00:00 +0100, Mon, 3 Mar 2025 10:00:00 +0100",
    "Mo, 03 Mrz 2025 10:00:00 +0100",
    "lun., 3 mars 2025 10:00:00 +0100",
    "2025年3月3日 10:00:00 +0100",
]


@pytest.mark.parametrize("value", SAME_INSTANT)
def test_one_instant_in_many_ways(value: str) -> None:
    found = date(value)
    assert found is not None
    assert found.replace(microsecond=0, second=0) == datetime(2025, 3, 3, 9, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("3 Mar 2025 10:27 PM +0000", datetime(2025, 3, 3, 22, 27, tzinfo=UTC)),
        ("Tue, 4 Mar 70 10:00:00 +0000", datetime(1970, 3, 4, 10, tzinfo=UTC)),
        ("mar., 4 mars 2025 10:00:00 +0000", datetime(2025, 3, 4, 10, tzinfo=UTC)),
        ("25/03/2025 10:00 +0000", datetime(2025, 3, 25, 10, tzinfo=UTC)),
        ("03/25/2025 10:00 +0000", datetime(2025, 3, 25, 10, tzinfo=UTC)),
    ],
)
def test_unusual(value: str, expected: datetime) -> None:
    assert date(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        # India, Israel or Ireland; Arabia or the Atlantic; nobody knows.
        "Mon, 3 Mar 2025 10:00:00 IST",
        "Mon, 3 Mar 2025 10:00:00 (IST)",
        "Mon, 3 Mar 2025 10:00:00 AST",
        "Mon, 3 Mar 2025 10:00:00 XYZT",
        # The sign is lost.
        "Mon, 3 Mar 2025 10:00:00 0100",
        # Day first, or month first.
        "03/04/2025 10:00:00 +0000",
        # No time, no day, no such hour.
        "Mon, 3 Mar 2025",
        "2025-03-03",
        "10:00:00 +0000",
        "Mon, 3 Mar 2025 25:00:00 +0000",
        "Mon, 3 Mar 2025 24:01:00 +0000",
        "Mon, 3 Mar 2025 10:00:00 +0160",
        "Mon, 3 Mar 2025 10:00:00 +99999999",
        "Mon, 30 Feb 2025 10:00:00 +0000",
    ],
)
def test_what_cannot_be_known(value: str) -> None:
    assert date(value) is None
