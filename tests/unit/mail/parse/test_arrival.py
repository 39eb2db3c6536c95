"""When a message arrived, read from its header."""

import time
from datetime import UTC, datetime

import pytest

from tasks.mail.parse.arrival import arrived_at

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
RECEIVED = b"Received: from a by b with ESMTP;\r\n\tTue, 3 Mar 2026 11:00:00 +0100\r\n"
EARLIER = b"Received: from x by a; Tue, 3 Mar 2026 09:00:00 +0000\r\n"
DATE = b"Date: Mon, 2 Mar 2026 10:00:00 +0000\r\n"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (RECEIVED + EARLIER + DATE, datetime(2026, 3, 3, 10, 0, tzinfo=UTC)),
        (DATE, datetime(2026, 3, 2, 10, 0, tzinfo=UTC)),
        (b"Received: no date here\r\n" + DATE, datetime(2026, 3, 2, 10, 0, tzinfo=UTC)),
        (b"Date: Fri, 99 Foo 2026\r\n", NOW),
        (b"Date: Mon, 2 Mar 2037 10:00:00 +0000\r\n", NOW),
        (b"Subject: x\r\n\r\n" + DATE, NOW),
        (b"", NOW),
    ],
)
def test_the_last_server_says_else_the_sender_else_it_is_now(header: bytes, expected: datetime) -> None:
    assert arrived_at(header + b"\r\nbody", NOW) == expected


@pytest.mark.parametrize("raw", [b"Received:" * 200_000, b"Received: x\n " * 100_000, b"Date:\n" * 300_000])
def test_no_header_takes_long(raw: bytes) -> None:
    started = time.process_time()
    arrived_at(raw, NOW)
    assert time.process_time() - started < 2
