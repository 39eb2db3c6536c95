"""Beat has started when it has looked at its schedule: one that cannot even do that is not started."""

import pytest
from redis.exceptions import RedisError

from tasks.celery_app import create_celery_app
from tasks.runtime import systemd
from tasks.runtime.scheduler import SharedScheduler


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What systemd is told."""
    told: list[str] = []
    monkeypatch.setattr(systemd, "notify", lambda *assignments: told.extend(assignments))
    return told


def test_a_beat_whose_first_tick_fails_is_not_started(told: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AttributeError("a fault of a release")

    monkeypatch.setattr(SharedScheduler, "_fire_due", fail)
    with create_celery_app() as app, pytest.raises(AttributeError):
        SharedScheduler(app, lazy=True).tick()
    assert "READY=1" not in told


def test_a_beat_is_started_once_though_its_broker_is_away(told: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RedisError("away")

    monkeypatch.setattr(SharedScheduler, "_fire_due", fail)
    with create_celery_app() as app:
        scheduler = SharedScheduler(app, lazy=True)
        assert [scheduler.tick() for _ in range(2)] == [1, 1]
    assert told.count("READY=1") == 1
    assert "STATUS=Queues nothing, the broker fails: away" in told
