"""Runs one server as a child process, for tests, benchmarks and the moments before the supervisor runs.

The supervisor does not use this class: it starts the same commands (`Postgres.command()` and so on) by itself.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Self

import psutil

from native.errors import StackError


class Server:
    """Starts, stops and kills one server; as a context manager it runs for the length of the block."""

    name = "server"
    stop_signal = signal.SIGTERM
    start_seconds = 30  # after this time a server counts as failed
    stop_seconds = 30.0  # after this time a server is killed
    children_seconds = 1.0  # how long children may outlive the server

    def __init__(self, root: Path) -> None:
        self.root = root
        self.log = root / f"{self.name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """The command line, which stays in the foreground."""
        raise NotImplementedError

    def is_ready(self) -> bool:
        """Whether the server serves clients now."""
        raise NotImplementedError

    @property
    def pid(self) -> int:
        """The process id of the server."""
        if self._process is None:
            raise StackError(f"{self.name} is not running")
        return self._process.pid

    def start(self) -> None:
        """Start the server and wait until it serves. Raises StackError with the end of its log if it does not."""
        if self._process is not None:
            return
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                cwd=self.root,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in the terminal is for the caller, who stops it in order
            )
        self._wait_until_ready()

    def environment(self) -> dict[str, str]:
        """The environment of the server: only the caller's variables without which no program runs."""
        return {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR", "TZ") if name in os.environ}

    def stop(self) -> None:
        """Stop the server and wait for it. If it does not stop in time, it is killed."""
        self._end(self.stop_signal)

    def kill(self) -> None:
        """End the server as a crash would (SIGKILL to the server, whose children follow)."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop the server and start it again on the same port with the same data."""
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + self.start_seconds
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                status, self._process = self._process.returncode, None
                raise StackError(f"{self.name} ended with status {status} as it started: {self.log_end()}")
            if self.is_ready():
                return
            time.sleep(0.02)
        self.kill()
        raise StackError(f"{self.name} was not ready after {self.start_seconds} s: {self.log_end()}")

    def log_end(self, characters: int = 800) -> str:
        """The end of the server's log."""
        return self.log.read_text(errors="replace")[-characters:].strip() or f"{self.log} is empty"

    def _end(self, signal_number: int) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        # The server's children are waited for too: they outlive a
        # killed server for a moment and hold its port and memory.
        children: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal_number)
        try:
            process.wait(self.stop_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for child in wait_until_gone(children, self.children_seconds):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        wait_until_gone(children, 5)


def wait_until_gone(processes: Iterable[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Wait until the processes have ended. Returns those that did not end in time.

    A zombie has ended: it holds neither port nor memory, and an init that reaps slowly is not waited for.
    """
    deadline = time.monotonic() + seconds
    alive = list(processes)
    while alive := [process for process in alive if is_alive(process)]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)
    return alive


def is_alive(process: psutil.Process) -> bool:
    """Whether this very process (not a later one of the same id) still runs."""
    try:
        return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
