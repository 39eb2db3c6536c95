"""What systemd is told: over a real socket, in both forms that its name takes."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.runtime.systemd import notify


@pytest.fixture(params=["path", "abstract"])
def manager(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """The receiving end."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@metabuilder-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(name.replace("@", "\0") if name.startswith("@") else name)
        receiver.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield receiver


def test_assignments_arrive_one_a_line(manager: socket.socket) -> None:
    notify("READY=1", "STATUS=Consumes sync")
    assert manager.recv(1000) == b"READY=1\nSTATUS=Consumes sync"


def test_without_systemd_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
