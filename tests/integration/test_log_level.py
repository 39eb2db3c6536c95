"""LOG_LEVEL decides what the log of a worker has, as the native stack starts it."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis

from native.programs import PORTS, programs
from native.state import State
from tasks.monitoring.readings.workers import workers
from tests.conftest import Database
from tests.support.processes import kill_tree
from tests.support.programs import start
from tests.support.servers import RedisServer
from tests.support.worker import wait_until

_LEVEL = re.compile(r": ([A-Z]+)/MainProcess\] ")


@pytest.mark.parametrize(
    ("level", "has", "has_not"), [("WARNING", set(), {"INFO", "DEBUG"}), ("DEBUG", {"INFO", "DEBUG"}, set())]
)
def test_a_worker_writes_no_lines_below_its_level(
    redis: RedisServer,
    database: Database,
    environment: Callable[..., None],
    tmp_path: Path,
    level: str,
    has: set[str],
    has_not: set[str],
) -> None:
    environment(REDIS_URL=redis.url, LOG_LEVEL=level, CELERYD_CONCURRENCY="1")
    state, log = State(tmp_path / "state"), tmp_path / "log"
    state.create()
    [worker] = [program for program in programs(state, {}, PORTS) if program.name == "worker"]
    module = worker.command.index("-m")
    process = start(worker.command[module + 1], worker.command[module + 2 :], log)
    try:
        with Redis(port=redis.port, password=redis.password) as client:
            wait_until(lambda: any(one.consumes for one in workers(client)), "the worker does not consume")
        levels = set(_LEVEL.findall(log.read_text()))
        assert levels >= has
        assert not levels & has_not
    finally:
        kill_tree(process)
        process.wait(30)
        print(log.read_text(errors="replace"))


def test_an_unknown_level_is_refused_by_its_name(environment: Callable[..., None], tmp_path: Path) -> None:
    environment(LOG_LEVEL="LOUD")
    log = tmp_path / "log"
    worker = start("celery", ("-A", "tasks.celery_app:celery_app", "worker"), log)
    try:
        assert worker.wait(90) != 0
    finally:
        kill_tree(worker)
    assert "LOG_LEVEL: " in log.read_text()
    assert "'DEBUG', 'INFO', 'WARNING', 'ERROR' or 'CRITICAL'" in log.read_text()
