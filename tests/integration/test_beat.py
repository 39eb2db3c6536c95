"""Several real beats on one Redis: each due task is queued once, and none late when a beat is gone."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import redis as redis_client

from native.ports import LOOPBACK
from tasks.celery_app import create_celery_app
from tasks.runtime.broker.queues import wake_key
from tasks.runtime.scheduler import LAST_RUNS, TICKED, seconds_since_tick
from tests.support.application import application
from tests.support.clock import Clock
from tests.support.programs import Program, start
from tests.support.proxy import Network
from tests.support.servers import RedisServer
from tests.support.service_manager import Manager
from tests.support.worker import wait_until

INTERVAL = 2.0


@pytest.fixture
def broker(redis: RedisServer, environment: Callable[..., None]) -> Iterator[redis_client.Redis]:
    environment(REDIS_URL=redis.url, BEAT_TEST_SECONDS=str(INTERVAL))
    with redis_client.Redis(port=redis.port, password=redis.password, decode_responses=True) as client:
        yield client


class Beats:
    """Beats as processes of their own, each scheduling `probe` every INTERVAL seconds."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "beat.log"
        self.running: list[Program] = []

    def start(self, **environment: str) -> Program:
        arguments = ("-A", "tests.support.beat_app:app", "beat", "--pidfile=", "-l", "INFO")
        beat = start("celery", arguments, self.log, **environment)
        self.running.append(beat)
        return beat

    def kill(self, beat: Program) -> None:
        self.running.remove(beat)
        beat.kill()
        beat.wait()


@pytest.fixture
def beats(broker: redis_client.Redis, tmp_path: Path) -> Iterator[Beats]:
    beats = Beats(tmp_path)
    yield beats
    for beat in list(beats.running):
        beats.kill(beat)
    print(beats.log.read_text())


def firings(broker: redis_client.Redis) -> int:
    return int(broker.llen("sync"))


def watch(broker: redis_client.Redis, seconds: float, meanwhile: Callable[[], None] = lambda: None) -> list[float]:
    """When messages arrived within so many seconds."""
    arrivals: list[float] = []
    known, deadline = firings(broker), time.monotonic() + seconds
    while time.monotonic() < deadline:
        now = firings(broker)
        arrivals += [time.monotonic()] * (now - known)
        if now != known:
            known = now
            meanwhile()
        time.sleep(0.01)
    return arrivals


def gaps(arrivals: list[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(arrivals)]


def test_three_beats_never_fire_twice(beats: Beats, broker: redis_client.Redis) -> None:
    for _ in range(3):
        beats.start()
    wait_until(lambda: firings(broker), "nothing is queued", 30)

    arrivals = watch(broker, 5 * INTERVAL)

    assert len(arrivals) >= 4
    # A message of a second beat would come at once, not an interval later.
    assert min(gaps(arrivals)) > 0.75 * INTERVAL
    queued = broker.lrange("sync", 0, -1)
    assert len(set(queued)) == len(queued)


def test_killed_ones_are_replaced_without_a_missed_interval(beats: Beats, broker: redis_client.Redis) -> None:
    beats.start()
    beats.start()
    wait_until(lambda: firings(broker), "nothing is queued", 30)
    wait_until(lambda: beats.log.read_text().count("beat: Starting") == 2, "the second beat does not start")
    killed: list[object] = []

    def kill_one_and_start_another() -> None:
        # The one that takes over runs: on a loaded machine a beat takes longer to start than an interval.
        if beats.log.read_text().count("beat: Starting") == len(killed) + 2:
            killed.append(beats.running[0])
            beats.kill(beats.running[0])
            beats.start()

    arrivals = watch(broker, 7 * INTERVAL, kill_one_and_start_another)

    assert killed
    assert len(arrivals) >= 4
    assert min(gaps(arrivals)) > 0.75 * INTERVAL
    assert max(gaps(arrivals)) < 2 * INTERVAL


def test_one_behind_a_silent_network_fires_soon_after_it_and_nothing_twice(
    beats: Beats, broker: redis_client.Redis, redis: RedisServer
) -> None:
    """Whatever it sent meanwhile arrives late."""
    with Network((LOOPBACK, redis.port)) as network:
        beats.start(REDIS_URL=redis.url.replace(f":{redis.port}", f":{network.port}"))
        wait_until(lambda: firings(broker), "nothing is queued", 30)
        network.be_silent(forget=False)
        wait_until(lambda: "does not answer" in beats.log.read_text(), "it has not noticed")
        before = firings(broker)
        network.mend()
        wait_until(lambda: firings(broker) > before, "it does not go on", 5)

        arrivals = watch(broker, 3 * INTERVAL)

    assert len(arrivals) >= 2
    assert min(gaps(arrivals)) > 0.75 * INTERVAL
    queued = broker.lrange("sync", 0, -1)
    assert len(set(queued)) == len(queued)


def test_one_that_slept_through_its_turn_does_not_fire_again(beats: Beats, broker: redis_client.Redis) -> None:
    """Stopped longer than an interval, as a virtual machine is while it is moved."""
    sleeper = beats.start()
    wait_until(lambda: firings(broker), "nothing is queued", 30)
    os.kill(sleeper.pid, signal.SIGSTOP)
    beats.start()
    wait_until(lambda: firings(broker) == 3, "the other does not go on", 30)
    time.sleep(INTERVAL / 4)

    os.kill(sleeper.pid, signal.SIGCONT)
    arrivals = watch(broker, 3 * INTERVAL)

    assert min(gaps(arrivals)) > 0.75 * INTERVAL


def test_the_schedule_survives_a_restart_of_everything(
    beats: Beats, broker: redis_client.Redis, redis: RedisServer
) -> None:
    only = beats.start()
    wait_until(lambda: firings(broker), "nothing is queued", 30)
    beats.kill(only)
    last_run = float(broker.hget(LAST_RUNS, "probe"))
    redis.restart()
    time.sleep(2 * INTERVAL)

    # Overdue by now: it fires when it comes back, once, and not an interval after that.
    beats.start()
    wait_until(lambda: firings(broker) == 2, "the overdue task is not queued", 30)
    assert float(broker.hget(LAST_RUNS, "probe")) > last_run + 2 * INTERVAL


def test_it_waits_for_redis(beats: Beats, broker: redis_client.Redis, redis: RedisServer) -> None:
    beat = beats.start()
    wait_until(lambda: firings(broker), "nothing is queued", 30)
    with application() as app:
        assert seconds_since_tick(app) < 5
    redis.stop()
    try:
        wait_until(lambda: "does not answer" in beats.log.read_text(), "it has not noticed")
    finally:
        redis.start()
    before = firings(broker)

    wait_until(lambda: firings(broker) > before, "it does not go on")

    assert beat.poll() is None


def test_a_clock_that_was_hours_ahead_and_is_right_again_stops_nothing(
    beats: Beats, broker: redis_client.Redis
) -> None:
    broker.hset(LAST_RUNS, "probe", time.time() + 10 * 3600)
    beats.start()

    wait_until(lambda: firings(broker) >= 2, "it waits for the wrong time to come", 30)

    assert abs(float(broker.hget(LAST_RUNS, "probe")) - time.time()) < 60


def test_beats_whose_clocks_are_off_and_are_set_fire_once_in_each_interval_and_say_so(
    beats: Beats, broker: redis_client.Redis, tmp_path: Path
) -> None:
    clocks, managers = [], []
    for number, off in enumerate((600, -600)):
        (folder := tmp_path / str(number)).mkdir()
        clocks.append(Clock(folder))
        clocks[-1].set(off)
        managers.append(Manager(folder / "socket"))
        beats.start(NOTIFY_SOCKET=managers[-1].path, **clocks[-1].environment)
    ahead, behind = managers
    wait_until(lambda: "600 s ahead of" in ahead.status(), "nobody says whose clock is ahead")
    wait_until(lambda: "600 s behind" in behind.status(), "nobody says whose clock is behind")
    wait_until(lambda: ahead.is_ready() and behind.is_ready(), "systemd is not told that they have started")

    steps = [(0, -600), (0, 600), (1, 0), (1, 3600), (0, 0)]

    def set_a_clock() -> None:
        if steps:
            number, off = steps.pop()
            clocks[number].set(off)

    arrivals = watch(broker, 6 * INTERVAL, set_a_clock)

    assert not steps
    assert min(gaps(arrivals)) > 0.75 * INTERVAL
    assert max(gaps(arrivals)) < 2 * INTERVAL
    wait_until(lambda: "600 s behind" in ahead.status(), "nobody says that the clock was set")
    wait_until(lambda: behind.status() == "Keeps the schedule", "what is said is not true any more")
    for manager in managers:
        manager.close()


@pytest.mark.parametrize("odd", ["words", "nan", "1e300", "", b"\xff", "253402300799"])
def test_a_last_run_that_is_no_time_counts_as_new(odd: str | bytes, broker: redis_client.Redis, beats: Beats) -> None:
    broker.hset(LAST_RUNS, "probe", odd)
    beats.start()
    wait_until(lambda: firings(broker) == 2, "it does not fire any more")
    assert len(beats.running) == 1
    assert beats.running[0].poll() is None


def test_keys_of_other_types_end_no_beat_and_stop_no_schedule(broker: redis_client.Redis, beats: Beats) -> None:
    """No worker runs that would rename the queue."""
    broker.sadd(LAST_RUNS, "x")
    beat = beats.start()
    wait_until(lambda: firings(broker), "what is no table of last runs stops the schedule", 30)
    assert broker.smembers(f"{LAST_RUNS}:of-another-type") == {"x"}

    with broker.pipeline() as pipe:
        pipe.delete("sync", wake_key("sync"))
        pipe.sadd("sync", "x")
        pipe.sadd(wake_key("sync"), "x")
        pipe.execute()
    wait_until(lambda: broker.type("sync") == "list", "what is no queue stops it")
    before = firings(broker)
    wait_until(lambda: firings(broker) > before, "it fired once")
    assert broker.smembers("sync:of-another-type") == {"x"}
    assert beat.poll() is None
    assert "Traceback" not in beats.log.read_text()


@pytest.mark.parametrize("odd", ["words", "nan", "1e300", b"\xff"])
def test_a_tick_that_is_no_time_counts_as_none(odd: str | bytes, broker: redis_client.Redis) -> None:
    broker.set(TICKED, odd)
    with create_celery_app() as app:
        assert seconds_since_tick(app) is None
        broker.set(TICKED, time.time() - 5)
        assert 4 < (seconds_since_tick(app) or 0) < 60
