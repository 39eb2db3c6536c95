"""A Redis whose clock is set, ahead or back, while it runs: nothing is thrown away or done twice, and it is said."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis as redis_client

from tasks.registry import PERIODIC_SYNC
from tasks.runtime.scheduler import SharedScheduler
from tasks.storage.dead_letters import list_letters
from tests.conftest import Database
from tests.integration.faults.conftest import APP, SHORT_WAITS, broker, publish
from tests.support import fault_app
from tests.support.application import application
from tests.support.clock import Clock
from tests.support.fault_app import begun, done, hold
from tests.support.servers import RedisServer
from tests.support.worker import Worker, wait_until

INTERVAL = 300


class _Redis(RedisServer):
    """One with a clock of its own."""

    def __init__(self, root: Path, clock: Clock) -> None:
        super().__init__(root)
        self.clock = clock

    def environment(self) -> dict[str, str]:
        return {**super().environment(), **self.clock.environment}


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    """That of Redis."""
    return Clock(tmp_path)


@pytest.fixture
def client(
    clock: Clock, database: Database, environment: Callable[..., None], tmp_path: Path
) -> Iterator[redis_client.Redis]:
    """Redis with that clock. The tasks of `fault_app` are published there."""
    with _Redis(tmp_path / "redis", clock) as server:
        environment(REDIS_URL=server.url, **SHORT_WAITS)
        # Longer than the clock is off: what workers have in hand would count as abandoned.
        environment(FAULT_VISIBILITY_TIMEOUT="2000", TASK_TIMEOUT="300", CELERY_TASK_SOFT_TIME_LIMIT="280")
        environment(CELERY_VISIBILITY_TIMEOUT="2000")
        with broker(server) as connected, application(fault_app):
            yield connected


def test_a_worker_throws_nothing_away_and_does_nothing_twice(
    client: redis_client.Redis, clock: Clock, tmp_path: Path
) -> None:
    send = fault_app.app.send_task
    with Worker(tmp_path, 3, app=APP) as worker:
        held = hold(tmp_path)
        publish(tmp_path, [0])
        publish(tmp_path, [1], countdown=3)
        wait_until(lambda: begun(tmp_path) == 1 and client.hlen("unacked") == 2, "it does not take them")
        for off, words in ((600, "600 s behind that of Redis"), (-600, "600 s ahead of"), (0, "agree again")):
            clock.set(off)
            # One that expires in a while, as beat queues it; one that expired
            fresh = send(PERIODIC_SYNC, queue="periodic", expires=300)
            late = send(PERIODIC_SYNC, queue="periodic", expires=datetime.now(UTC) - timedelta(seconds=20))
            assert fresh.get(timeout=60)["status"] == "success"
            wait_until(lambda late=late: late.state == "REVOKED", "what expired ran")
            wait_until(lambda words=words: words in worker.log.read_text(), f"it is not said at {off} s")
        held.unlink()
        publish(tmp_path, [2], countdown=1)
        wait_until(lambda: len(done(tmp_path)) == 3, "some are not done")
        wait_until(lambda: not client.exists("unacked", "unacked_index"), "a delivery is left over")
    assert done(tmp_path) == dict.fromkeys(range(3), 1)
    assert list_letters() == []


def test_two_beats_fire_once_whenever_the_clock_is_set(client: redis_client.Redis, clock: Clock) -> None:
    with application() as app:
        entry = {"task": PERIODIC_SYNC, "schedule": timedelta(seconds=INTERVAL), "options": {"expires": INTERVAL}}
        app.conf.beat_schedule = {"probe": entry}
        beats = [SharedScheduler(app), SharedScheduler(app)]

        def fired() -> int:
            for beat in (*beats, *beats):
                beat.tick()
            return client.llen("periodic")

        assert fired() == 0  # a new entry counts as having run
        for off, expected in (
            *((INTERVAL - 60, 0), (600, 1)),  # ahead: what is due by then, once, and not for each interval skipped
            *((0, 2), (-200, 2)),  # back by more than an interval, and by less
            (200, 2),
        ):
            clock.set(off)
            assert fired() == expected, off
