"""Whose clock is off is said of the right one."""

import logging
import time
from typing import Any

import pytest

from tasks.runtime.clocks import Watch, words

ADVICE = ": synchronise it (timedatectl status, systemd-timesyncd)"


@pytest.mark.parametrize(
    ("clocks", "said"),
    [
        ({"A": 4, "C": 0}, ""),
        ({"A": 4, "B": -4, "C": 0}, ""),
        ({"A": 600, "C": 0}, "the clock of A is 600 s ahead of that of C" + ADVICE),
        ({"A": -600, "C": 0}, "the clock of A is 600 s behind that of C" + ADVICE),
        ({"A": -600, "B": 1, "C": 0}, "the clock of A is 600 s behind that of B and of C" + ADVICE),
        ({"A": 1, "B": 600, "C": 0}, "the clock of B is 599 s ahead of that of A and of C" + ADVICE),
        ({"A": 600, "B": 601, "C": 0}, "the clock of C is 600 s behind that of A and of B" + ADVICE),
        (
            {"A": 600, "B": -90, "C": 0},
            "the clock of A is 600 s ahead of that of C; the clock of B is 90 s behind that of C"
            ": synchronise them (timedatectl status, systemd-timesyncd)",
        ),
    ],
)
def test_the_clock_that_is_off_is_named(clocks: dict[str, float], said: str) -> None:
    assert words(clocks) == said


class Redis:
    """A Redis whose clock is off, and what is noted there of PostgreSQL's."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self.noted: Any = None

    def time(self) -> tuple[int, int]:
        return int(time.time() + self.ahead), 0

    def get(self, name: str) -> Any:
        assert name == "metabuilder:clock:postgresql"
        return self.noted


def test_it_is_said_once_and_again_when_it_changes(caplog: pytest.LogCaptureFixture) -> None:
    redis, watch = Redis(), Watch()
    caplog.set_level(logging.WARNING)
    log: list[int] = []
    for redis.ahead, redis.noted in (
        (0, None),
        (60, b"-60"),
        (61, b"-61"),
        (600, b"-600"),
        (0, b"no number"),
        (0, b"60"),
    ):
        watch.look(redis)
        log.append(len(caplog.records))
    assert log == [0, 1, 1, 2, 3, 4]
    assert "Redis" in caplog.messages[0].partition(" is ")[0]
    assert "agree again" in caplog.messages[2]
    assert "PostgreSQL" in caplog.messages[3].partition(" is ")[0]
    assert watch.words == caplog.messages[3]
