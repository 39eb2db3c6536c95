"""The options of `logs`."""

from datetime import UTC, datetime, timedelta

import pytest

from manage.log_options import moment


def test_since_is_a_time_or_how_long_ago() -> None:
    now = datetime.now().astimezone().replace(microsecond=0)
    assert moment("90s", now) == now - timedelta(seconds=90)
    assert moment("3d", now) == now - timedelta(days=3)
    assert moment("15:04", now) == now.replace(hour=15, minute=4, second=0)
    assert moment("2026-11-27", now) == datetime(2026, 11, 27).astimezone()
    assert moment("2026-11-27T15:00:00+00:00", now) == datetime(2026, 11, 27, 15, tzinfo=UTC)
    for odd in ("", "yesterday", "10", "m", "-5m", "25:00", "2026-13-01", "99999999d"):
        with pytest.raises((ValueError, OverflowError)):
            moment(odd, now)
