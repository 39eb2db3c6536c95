"""A worker, beat and Flower under a service manager with a watchdog: what is stuck is restarted, and nothing else.

All three run beside each other on one Redis for the tests of this file.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import psutil
import pytest

from native.ports import free_port
from tasks.settings import get_settings
from tests.conftest import TENANT, USER, unavailable
from tests.integration.faults.conftest import MAX_CURE_SECONDS
from tests.support import fault_app
from tests.support.application import application
from tests.support.servers import RedisServer
from tests.support.service_manager import Watch
from tests.support.worker import wait_until

ROOT = Path(__file__).parents[3]
# Beat looks at its schedule every two seconds.
WATCHDOG_SECONDS = {"worker": 3, "beat": 5, "flower": 3}
OUTAGE_SECONDS = 3 * WATCHDOG_SECONDS["worker"]
PROCESSES = 2
# A task's time limit is longer than the watchdog's time, and messages of a killed worker come back soon.
ENVIRONMENT = {
    "TASK_TIMEOUT": "30",
    "CELERY_TASK_SOFT_TIME_LIMIT": "25",
    "TASK_RETRY_MAX_DELAY": "1",
    "CELERY_VISIBILITY_TIMEOUT": "60",
    "FAULT_VISIBILITY_TIMEOUT": "15",
    "BEAT_TEST_SECONDS": "5",
    "FLOWER_BASIC_AUTH": "admin:sample",
    "PYTHONPATH": str(ROOT),
    "PYTHONFAULTHANDLER": "1",  # as in the units
}
APPS = {"worker": "fault_app", "beat": "beat_app", "flower": "fault_app"}


class Site:
    """The three units, which run on a disk of their own, and the folder in which tasks leave their marks."""

    def __init__(self, folder: Path, disk: Path, redis: RedisServer) -> None:
        self.folder, self.disk, self.redis, self._published = folder, disk, redis, 0
        arguments = {
            "worker": ("worker", "-l", "INFO", "-c", str(PROCESSES), "--without-gossip", "--without-mingle"),
            "beat": ("beat", "--pidfile=", "-l", "INFO"),
            "flower": ("flower", "--address=127.0.0.1", f"--port={free_port()}"),
        }
        self.units = {name: self._unit(name, *arguments[name]) for name in APPS}

    def _unit(self, name: str, *arguments: str) -> Watch:
        command = [sys.executable, "-m", "celery", "-A", f"tests.support.{APPS[name]}:app", *arguments]
        watch = Watch(self.folder / f"{name}.socket", WATCHDOG_SECONDS[name], lambda: start())
        log = self.log(name).open("ab")
        start = partial(
            subprocess.Popen,
            command,
            cwd=self.disk,
            env={**os.environ, **watch.environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        return watch

    def log(self, name: str) -> Path:
        return self.disk / f"{name}.log"

    def show_logs(self) -> None:
        """Print them, for pytest to show."""
        for name in self.units:
            print(name, self.log(name).read_text(errors="replace")[-10_000:], sep="\n")

    def children(self) -> list[psutil.Process]:
        """The processes of the worker's pool."""
        return psutil.Process(self.units["worker"].pid).children()

    def publish(self, count: int) -> None:
        for _ in range(count):
            fault_app.count.apply_async((TENANT, USER, str(self.folder), self._published), queue="sync")
            self._published += 1

    def assert_consumes(self) -> None:
        """What a worker that was killed had in hand comes later."""
        self.publish(1)
        wait_until(lambda: fault_app.done(self.folder)[self._published - 1], "the worker does not consume")

    def assert_all_is_done_once(self) -> None:
        wait_until(lambda: len(fault_app.done(self.folder)) == self._published, "some are not done")
        assert fault_app.done(self.folder) == dict.fromkeys(range(self._published), 1)

    def wait_until_restarted(self, name: str, before: int) -> None:
        unit = self.units[name]
        wait_until(lambda: unit.restarts == before + 1 and unit.is_ready(), f"{name} is not restarted", 15)

    def restarts(self) -> dict[str, int]:
        return {name: unit.restarts for name, unit in self.units.items()}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("watchdog")
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        redis = stack.enter_context(RedisServer(folder / "redis"))
        (disk := folder / "disk").mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
        if not subprocess.run(mount, capture_output=True, check=False).returncode:
            stack.callback(subprocess.run, ["umount", "--lazy", str(disk)], check=True)
        for name, value in {**ENVIRONMENT, "REDIS_URL": redis.url}.items():
            patch.setenv(name, value)
        get_settings.cache_clear()
        stack.enter_context(application(fault_app))
        made = Site(folder, disk, redis)
        stack.callback(made.show_logs)
        for unit in made.units.values():
            stack.enter_context(unit)
        for name, unit in made.units.items():
            wait_until(unit.is_ready, f"{name} does not start")
        yield made
    get_settings.cache_clear()


def test_a_process_that_is_stopped_is_restarted_and_its_tasks_are_done_once(site: Site) -> None:
    held, before = fault_app.hold(site.folder), site.restarts()
    site.publish(PROCESSES)
    wait_until(lambda: fault_app.begun(site.folder) == PROCESSES, "the tasks do not begin")

    for unit in site.units.values():
        os.kill(unit.pid, signal.SIGSTOP)

    for name in APPS:
        site.wait_until_restarted(name, before[name])
    assert "Fatal Python error: Aborted" in site.log("worker").read_text()  # and where it stood
    held.unlink()
    site.assert_consumes()


def test_a_pool_of_stuck_processes_is_restarted_though_the_worker_answers_ping(site: Site) -> None:
    before = site.restarts()
    for child in site.children():
        child.suspend()
    assert fault_app.app.control.inspect(timeout=1).ping()

    site.wait_until_restarted("worker", before["worker"])

    assert site.restarts() == {**before, "worker": before["worker"] + 1}
    assert "this worker has itself restarted" in site.log("worker").read_text()
    site.assert_consumes()


@pytest.fixture
def at_work(site: Site) -> Iterator[None]:
    """Each process of the pool has a task that lasts until the end of the test, and as many tasks wait."""
    held, begun = fault_app.hold(site.folder), fault_app.begun(site.folder)
    site.publish(2 * PROCESSES)
    wait_until(lambda: fault_app.begun(site.folder) == begun + PROCESSES, "the tasks do not begin")
    yield
    held.unlink(missing_ok=True)
    site.assert_consumes()


@pytest.fixture
def full_disk(site: Site) -> Iterator[None]:
    """The disk of the units takes no byte more."""
    if not site.disk.is_mount():
        unavailable("a small disk cannot be mounted")
    filling = site.disk / "filling"
    with filling.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    yield
    filling.unlink()


@pytest.mark.usefixtures("at_work", "full_disk")
def test_neither_long_tasks_nor_a_full_disk_restart_anything(site: Site) -> None:
    before = site.restarts()
    time.sleep(1.5 * WATCHDOG_SECONDS["worker"])
    assert site.restarts() == before


def test_a_broker_that_is_away_restarts_nothing(site: Site) -> None:
    before = site.restarts()

    site.redis.stop()
    time.sleep(OUTAGE_SECONDS)
    site.redis.start()

    began = time.monotonic()
    site.assert_consumes()
    assert time.monotonic() - began < MAX_CURE_SECONDS
    assert site.restarts() == before


@pytest.mark.usefixtures("at_work")
def test_a_worker_that_stops_is_left_to_finish_its_tasks(site: Site) -> None:
    worker, before = site.units["worker"], site.restarts()["worker"]

    fault_app.app.control.shutdown()  # nobody but the worker knows that it stops

    wait_until(lambda: worker.is_stopping, "it does not say that it stops")
    time.sleep(1)
    assert worker.restarts == before
    (site.folder / "held").unlink()
    site.wait_until_restarted("worker", before)
    site.assert_all_is_done_once()
