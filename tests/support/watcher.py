"""A watcher as a process of its own, that can be killed like any other."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.stored import rows
from tests.support.worker import wait_until

_ROOT = Path(__file__).parents[2]
_STOP_SECONDS = 60


class WatcherProcess:
    """Starts with the environment of the test. `name` tells it from others in the column `watched_by`."""

    def __init__(self, log: Path) -> None:
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tasks.watch"],
                cwd=_ROOT,
                env=dict(os.environ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self.pid = self._process.pid

    def watched(self) -> list[str]:
        """The accounts of TENANT for which it holds a connection, by name."""
        found = rows(
            "SELECT account_name FROM email_client WHERE watched_by LIKE :name AND watched_since IS NOT NULL "
            "ORDER BY account_name",
            name=f"%:{self.pid}:%",
        )
        return [str(name) for (name,) in found]

    def wait_until_watching(self, *names: str) -> None:
        """Wait until it watches these accounts and no others."""
        wait_until(lambda: self.watched() == sorted(names), f"not watched: {names}")

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def stop(self) -> int:
        """Have it stop; its exit status."""
        self._process.terminate()
        return self._process.wait(_STOP_SECONDS)

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait(_STOP_SECONDS)

    def log(self) -> str:
        """What it has logged."""
        return self._log.read_text(errors="replace")


@contextmanager
def running_watcher(folder: Path, number: int = 1) -> Iterator[WatcherProcess]:
    """A watcher for the block, which is killed at its end. Its log is shown where the test fails."""
    watcher = WatcherProcess(folder / f"watcher-{number}.log")
    try:
        yield watcher
    finally:
        watcher.kill()
        print(watcher.log()[-10_000:])
