"""The times of messages are those of Redis's clock, whoever publishes them."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tasks.runtime.broker.clock import ahead_of_redis, shift, to_redis


class Redis:
    """A Redis whose clock is off."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def time(self) -> tuple[int, int]:
        microseconds = int((time.time() + self.seconds) * 1e6)
        return microseconds // 10**6, microseconds % 10**6


@pytest.mark.parametrize("off", [600, -600])
def test_what_is_queued_expires_and_is_due_by_redis(off: float) -> None:
    moment = datetime.now(UTC) + timedelta(seconds=300)
    message: dict[str, Any] = {"headers": {"expires": moment.isoformat(), "eta": moment.isoformat(), "id": "x"}}

    to_redis(Redis(off), message)

    for name in ("expires", "eta"):
        moved = datetime.fromisoformat(message["headers"][name]) - moment
        assert moved.total_seconds() == pytest.approx(off, abs=0.5)
    assert message["headers"]["id"] == "x"
    # And whoever takes it with the same clock finds what was meant
    shift(message["headers"], ahead_of_redis(Redis(off)))
    assert abs(datetime.fromisoformat(message["headers"]["expires"]) - moment) < timedelta(seconds=3)


def test_a_message_with_one_of_the_times_keeps_to_that() -> None:
    headers = {"expires": "2026-01-01T00:00:00+00:00", "eta": None}
    shift(headers, 60)
    assert headers == {"expires": "2026-01-01T00:01:00+00:00", "eta": None}


def test_a_message_without_times_costs_no_round_trip_and_clocks_that_agree_change_nothing() -> None:
    to_redis(None, {"headers": {"expires": None, "eta": None}})
    headers = {"expires": "2026-01-01T00:00:00+00:00"}
    shift(headers, 0.4)
    assert headers["expires"] == "2026-01-01T00:00:00+00:00"
