"""Which errors a publisher waits through, and for how long."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
from redis import exceptions

from tasks.runtime.broker import failover
from tasks.runtime.broker.failover import through_failover
from tasks.runtime.broker.master import MasterLostError


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch, environment: Callable[..., None]) -> list[float]:
    """How long it slept each time, by a clock that only sleeping moves."""
    environment(REDIS_SENTINELS="redis1:1", REDIS_URL="")
    pauses: list[float] = []
    clock = SimpleNamespace(monotonic=lambda: sum(pauses), sleep=pauses.append)
    monkeypatch.setattr(failover, "time", clock)
    return pauses


def failing(error: Exception, times: int) -> Callable[[], str]:
    left = iter(range(times))

    def publish() -> str:
        if next(left, None) is not None:
            raise error
        return "published"

    return publish


@pytest.mark.parametrize(
    "error",
    [
        MasterLostError("NOREPLICAS Not enough good replicas to write."),
        exceptions.ConnectionError("no Sentinel knows"),
        exceptions.BusyLoadingError("Redis is loading the dataset in memory"),
        exceptions.TimeoutError("Timeout reading from socket"),
    ],
)
def test_what_a_failover_ends_is_tried_again(slept: list[float], error: Exception) -> None:
    assert through_failover(failing(error, 5)) == "published"
    assert len(slept) == 5

    with pytest.raises(type(error)):
        through_failover(failing(error, 1000))
    assert sum(slept[5:]) <= failover.PATIENCE_SECONDS


@pytest.mark.parametrize(
    "error",
    [
        exceptions.OutOfMemoryError("command not allowed"),
        exceptions.AuthenticationError("invalid username-password pair"),
        exceptions.NoPermissionError("no permissions"),
        ValueError("the arguments are too large"),
    ],
)
def test_what_no_failover_ends_is_not(slept: list[float], error: Exception) -> None:
    with pytest.raises(type(error)):
        through_failover(failing(error, 1))
    assert not slept


def test_without_sentinels_nothing_is_tried_again(slept: list[float], environment: Callable[..., None]) -> None:
    environment(REDIS_SENTINELS="")
    with pytest.raises(MasterLostError):
        through_failover(failing(MasterLostError("READONLY"), 1))
    assert not slept
