"""A worker stops in its normal time whatever Redis is at, and gives back nothing that it has done."""

import fcntl
import os
import signal
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import redis as redis_client

from tasks.storage.dead_letters import list_letters
from tests.integration.faults.conftest import APP, publish
from tests.support.fault_app import begun, done, hold
from tests.support.servers import RedisServer
from tests.support.worker import Worker, wait_until

MAX_STOP_SECONDS = 20


def unread_pipes(processes: list[psutil.Process]) -> int:
    """How many pipes hold what these processes have not read yet."""
    unread = set()
    for process in processes:
        for path in Path(f"/proc/{process.pid}/fd").iterdir():
            if not (name := str(path.readlink())).startswith("pipe:"):
                continue
            with open(path, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as pipe:
                size = fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4)
            if int.from_bytes(size, sys.byteorder):
                unread.add(name)
    return len(unread)


@pytest.mark.parametrize("loses_its_connection", [False, True])
def test_a_stop_does_not_wait_for_what_nobody_reads(
    loses_its_connection: bool, client: redis_client.Redis, tmp_path: Path
) -> None:
    """Celery forgets what a process has not said that it began, and then waits 30 s for the process."""
    with Worker(tmp_path, 2, app=APP) as worker:
        held = hold(tmp_path)
        publish(tmp_path, range(2))
        wait_until(lambda: begun(tmp_path) == 2, "not both of its processes have started")
        held.unlink()
        wait_until(lambda: len(done(tmp_path)) == 2 and not client.exists("unacked"), "they are not done")
        children = worker.children()
        for child in children:
            child.send_signal(signal.SIGSTOP)
        publish(tmp_path, range(2, 4))
        wait_until(lambda: client.hlen("unacked") == 2, "it takes none")
        wait_until(lambda: unread_pipes(children) == 2, "the processes are not given them")
        if loses_its_connection:
            client.client_kill_filter(_type="pubsub")
            wait_until(lambda: worker.log.read_text().count("Connected to") == 2, "it does not connect anew")
        began = time.monotonic()
        psutil.Process(worker.pid).send_signal(signal.SIGTERM)
        wait_until(lambda: "Warm shutdown" in worker.log.read_text(), "it does not stop")
        time.sleep(0.5)  # until it has forgotten what it forgets: of that nothing is to be seen
        for child in children:
            child.send_signal(signal.SIGCONT)
        worker.wait(40)
        assert time.monotonic() - began < MAX_STOP_SECONDS
    assert done(tmp_path) == dict.fromkeys(range(4), 1)
    assert not client.exists("unacked", "unacked_index", "sync")
    assert list_letters() == []


def test_a_stop_takes_nothing_for_too_long_that_is_done(
    client: redis_client.Redis, redis: RedisServer, environment: Callable[..., None], tmp_path: Path
) -> None:
    """While a worker tries to connect nobody reads what its processes say."""
    environment(CELERY_TASK_SOFT_TIME_LIMIT="5", TASK_TIMEOUT="6")
    with Worker(tmp_path, 2, app=APP) as worker:
        held = hold(tmp_path)
        publish(tmp_path, range(2))
        wait_until(lambda: begun(tmp_path) == 2, "it does not take them")
        limits_over_at = time.monotonic() + 7
        redis.stop()
        try:
            held.unlink()
            wait_until(lambda: len(done(tmp_path)) == 2, "they are not done")
            time.sleep(limits_over_at - time.monotonic())
            psutil.Process(worker.pid).send_signal(signal.SIGTERM)
            worker.wait(20)
        finally:
            redis.start()
        assert "Cannot connect" in worker.log.read_text()
        assert "exited with" not in worker.log.read_text()
    assert list_letters() == []
