"""In place of systemd: what a unit says of itself, and restarts of a unit that does not say that it is alive."""

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

_KILL_SECONDS = 10


class Manager:
    """The socket on which a service manager is told what a unit is at (sd_notify(3))."""

    def __init__(self, path: Path) -> None:
        self.path, self._last, self._is_ready = str(path), "", False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.setblocking(False)

    def status(self) -> str:
        """The last that it was told."""
        self._read()
        return self._last

    def is_ready(self) -> bool:
        """Whether it was told that the unit has started."""
        self._read()
        return self._is_ready

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                for line in self._socket.recv(4096).decode().splitlines():
                    self._hear(line)

    def _hear(self, line: str) -> None:
        self._last = line.removeprefix("STATUS=") if line.startswith("STATUS=") else self._last
        self._is_ready |= line == "READY=1"

    def close(self) -> None:
        self._socket.close()


class Watch(Manager):
    """Restarts a unit with Type=notify, WatchdogSec=, KillMode=mixed and Restart=always as systemd does, at once.

    `start` starts the unit and returns its leading process, which must lead a session. As a context manager, ends the
    unit too.
    """

    def __init__(self, path: Path, seconds: float, start: Callable[[], "subprocess.Popen[bytes]"]) -> None:
        super().__init__(path)
        self.seconds, self._start = seconds, start
        self.restarts = 0
        self.is_stopping, self._has_ended, self._alive_at = False, False, 0.0
        self._thread = threading.Thread(target=self._watch)

    @property
    def environment(self) -> dict[str, str]:
        """What the unit is told of the manager."""
        return {"NOTIFY_SOCKET": self.path, "WATCHDOG_USEC": str(int(self.seconds * 1_000_000))}

    @property
    def pid(self) -> int:
        """Of the leading process."""
        return self._process.pid

    def status(self) -> str:
        return self._last

    def is_ready(self) -> bool:
        return self._is_ready

    def _hear(self, line: str) -> None:
        super()._hear(line)
        if line == "STOPPING=1":
            self.is_stopping = True
        elif line == "WATCHDOG=trigger":
            self._alive_at = 0.0
        elif line in ("READY=1", "WATCHDOG=1"):
            self._alive_at = time.monotonic()

    def _watch(self) -> None:
        while not self._has_ended:
            self._read()
            is_late = self._is_ready and time.monotonic() - self._alive_at > self.seconds
            if (is_late and not self.is_stopping) or self._process.poll() is not None:
                self._end()
                self.restarts += 1
                self._begin()
            time.sleep(0.02)

    def _begin(self) -> None:
        self._read()  # what the process before said last
        self._is_ready = self.is_stopping = False
        self._last, self._alive_at = "", 0.0
        self._process = self._start()

    def _end(self) -> None:
        for number in (signal.SIGABRT, signal.SIGCONT):
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_KILL_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def __enter__(self) -> "Watch":
        self._begin()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._has_ended = True
        self._thread.join()
        self._end()
        self.close()
