"""A worker tells systemd that it is ready when it consumes, not before, and when it stops."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.servers import RedisServer
from tests.support.worker import Worker, wait_until


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket that systemd would listen on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield receiver


def test_a_worker_is_ready_when_it_consumes_and_says_that_it_stops(
    manager: socket.socket, redis: RedisServer, environment, database, tmp_path: Path
) -> None:
    environment(REDIS_URL=redis.url)
    with Worker(tmp_path) as worker:
        ready = manager.recv(1000).decode().splitlines()
        assert ready[0] == "READY=1"
        assert ready[1].startswith("STATUS=Consumes ")
        assert worker.children()
        os.kill(worker.pid, signal.SIGTERM)
        assert manager.recv(1000) == b"STOPPING=1\nSTATUS=Warm shutdown: 0 tasks at work"


def test_a_worker_without_its_broker_is_not_ready(
    manager: socket.socket, redis: RedisServer, environment, database, tmp_path: Path
) -> None:
    environment(REDIS_URL="redis://127.0.0.1:1")  # nobody listens there
    worker = Worker(tmp_path)
    try:
        worker.start(wait=False)
        wait_until(lambda: "Cannot connect to redis" in worker.log.read_text(), "it does not say what it misses")
        for _ in range(3):
            assert manager.recv(1000).startswith(b"STATUS=Does not consume, the broker fails: ")
    finally:
        worker.kill()
