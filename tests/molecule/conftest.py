"""Starts the scenarios with the session: they run one after another beside the other tests, and both mostly wait."""

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, NamedTuple

import pytest

from tests.support.hosts.machine import missing
from tests.support.processes import kill_tree

_HERE = Path(__file__).parent
_ROOT = _HERE.parents[1]
# A scenario takes five to ten minutes; a machine that needs this long has a problem of its own.
_SECONDS = 1800
_LAST_CHARACTERS = 20_000


class Outcome(NamedTuple):
    """How a scenario ended, and the end of what it said."""

    status: int
    output: str


class Scenarios:
    """Runs `molecule test` for one scenario after another in the background."""

    def __init__(self, names: Iterable[str]) -> None:
        self._runner = ThreadPoolExecutor(1, thread_name_prefix="molecule")
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False
        self._outcomes: dict[str, Future[Outcome]] = {name: self._runner.submit(self._test, name) for name in names}

    def outcome(self, name: str) -> Outcome:
        """Wait for the end of a scenario."""
        return self._outcomes[name].result()

    def stop(self) -> None:
        """End what still runs, as when the session is interrupted, and remove what it made."""
        with self._lock:
            self._stopped = True
            if self._process:
                kill_tree(self._process)
        self._runner.shutdown(cancel_futures=True)

    def _test(self, name: str) -> Outcome:
        with tempfile.TemporaryFile() as output:
            with self._lock:
                if self._stopped:
                    raise CancelledError
                self._process = _start("test", name, output)
            try:
                status = self._process.wait(_SECONDS)
            except subprocess.TimeoutExpired:
                kill_tree(self._process)
                status = self._process.wait()
            if status < 0:
                _start("destroy", name, output).wait()
            output.seek(0)
            return Outcome(status, output.read().decode(errors="replace")[-_LAST_CHARACTERS:])


def _start(verb: str, scenario: str, output: IO[bytes]) -> "subprocess.Popen[bytes]":
    programs = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "ANSIBLE_NOCOLOR": "1", "NO_COLOR": "1"}
    return subprocess.Popen(
        # Nice to the tests beside it, some of which have little time.
        ["nice", "-n", "10", programs / "molecule", verb, "--scenario-name", scenario],
        cwd=_ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


_running = pytest.StashKey[Scenarios]()


def pytest_collection_finish(session: pytest.Session) -> None:
    names = [item.callspec.params["scenario"] for item in session.items if item.path.parent == _HERE]
    if names and not session.config.option.collectonly and not missing():
        session.config.stash[_running] = Scenarios(names)


def pytest_unconfigure(config: pytest.Config) -> None:
    if scenarios := config.stash.get(_running, None):
        scenarios.stop()


@pytest.fixture(scope="session")
def scenarios(pytestconfig: pytest.Config) -> Scenarios:
    """Those that the session started."""
    return pytestconfig.stash[_running]
