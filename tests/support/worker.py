"""A real Celery worker as a process of its own, that can be killed like any other."""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from native.process import is_alive, wait_until_gone
from tasks.registry import QUEUES
from tests.support.programs import Program, start

_START_SECONDS = 30
# What takes a second on a quiet machine takes several on a slow one with other tests beside it.
_PATIENCE = 3
_GONE = (FileNotFoundError, ProcessLookupError)  # a process or thread has ended


def wait_until(is_true: Callable[[], object], what: str, seconds: float = 30) -> None:
    """Poll until it is true; what has not come true in three times these seconds is said."""
    deadline = time.monotonic() + seconds * _PATIENCE
    while not is_true():
        if time.monotonic() > deadline:
            raise AssertionError(f"after {seconds * _PATIENCE} s: {what}")
        time.sleep(0.01)


def peak_memory(pid: int) -> int:
    """The most that a process has taken so far, in bytes."""
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024


def _children_of(pid: int) -> list[psutil.Process]:
    """The children of a process; none when it has ended.

    The kernel knows them: psutil would read the parents of all processes of the machine.
    """
    threads, children = [], []
    with contextlib.suppress(*_GONE):
        threads = list(Path(f"/proc/{pid}/task").iterdir())
    for thread in threads:
        with contextlib.suppress(*_GONE):
            for child in (thread / "children").read_text().split():
                with contextlib.suppress(psutil.NoSuchProcess):
                    children.append(psutil.Process(int(child)))
    return sorted(children, key=lambda child: child.pid)


class Worker:
    """Starts with the environment of the test. As a context manager nothing of it outlives the block."""

    def __init__(
        self,
        folder: Path,
        concurrency: int = 1,
        *,
        app: str = "tasks.celery_app:celery_app",
        queues: str = ",".join(QUEUES),
        options: tuple[str, ...] = ("--without-gossip", "--without-mingle"),
        forked: bool = True,
    ) -> None:
        self.log = folder / "worker.log"
        options = ("-l", "INFO", "-c", str(concurrency), "-Q", queues, *options)
        self._arguments = ("-A", app, "worker", *options)
        self._forked = forked
        self._process: Program | None = None
        self._started: list[psutil.Process] = []

    def start(self, *, wait: bool = True) -> None:
        """Start it; with `wait` until it consumes."""
        before = self.log.read_text().count(" ready.") if self.log.exists() else 0
        self._process = start("celery", self._arguments, self.log, forked=self._forked)
        self._started.append(psutil.Process(self._process.pid))
        if wait:
            self.wait_until_ready(before)

    def wait_until_ready(self, starts_before: int = 0) -> None:
        """Wait until it consumes."""
        wait_until(
            lambda: self.log.read_text().count(" ready.") > starts_before and self.children(),
            "the worker does not consume",
            _START_SECONDS,
        )

    @property
    def pid(self) -> int:
        """Of the leading process."""
        assert self._process is not None
        return self._process.pid

    def has_ended(self) -> bool:
        """Whether its leading process has."""
        return self._process is None or self._process.poll() is not None

    def wait(self, seconds: float) -> int:
        """Wait until it has stopped, three times these seconds at most; its exit status."""
        assert self._process is not None
        return self._process.wait(seconds * _PATIENCE)

    def children(self) -> list[psutil.Process]:
        """The processes of its pool."""
        found = _children_of(self.pid)
        self._started += [child for child in found if child not in self._started]
        return [child for child in found if is_alive(child)]

    def parsers(self) -> list[psutil.Process]:
        """The processes in which those of the pool parse; they end with them."""
        return [parser for child in self.children() for parser in _children_of(child.pid)]

    def kill_child(self) -> None:
        """SIGKILL to the process that runs tasks, as the kernel does when memory runs out."""
        children = self.children()
        parsers = self.parsers()
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):  # it ended by itself
                child.send_signal(signal.SIGKILL)
        wait_until_gone([*children, *parsers], 10)

    def kill(self) -> None:
        """SIGKILL to the worker and all its processes at once, in whatever state they are."""
        processes = [*self.children(), *self.parsers()]
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait(10)
        wait_until_gone(processes, 10)

    def peak_memory(self) -> int:
        """The most that a process of the pool has taken so far, in bytes."""
        return max(peak_memory(child.pid) for child in self.children())

    def __enter__(self) -> "Worker":
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if not self.has_ended():
            self.kill()
        alive = wait_until_gone(self._started, 5)
        # Shown by pytest where the test failed.
        print(self.log.read_text(errors="replace")[-20_000:])
        assert not alive, f"left behind: {alive}"
