"""Starts the scenarios with the session: they run beside the other tests, and both mostly wait.

One runs at a time while other tests need the processors, and two as soon as a test does nothing but wait for one.

In a run of several processes (`pytest -n`) the controlling process runs them, as its workers come and go; the tests,
which are in a worker, wait for the file that each scenario leaves.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, NamedTuple

import pytest

from tests.support.hosts.machine import missing
from tests.support.processes import kill_tree
from tests.support.tried_twice import TITLE

_HERE = Path(__file__).parent
_ROOT = _HERE.parents[1]
# A scenario takes ten to thirty minutes; a machine that needs this long has a problem of its own.
_SECONDS = 3600
_LAST_CHARACTERS = 20_000
_FAILURES = re.compile(r"^=+ (?:ERRORS|FAILURES) =+$", re.MULTILINE)
_FAILED = re.compile(r"^(?:ERROR|FAILED) \S.*", re.MULTILINE)
_TRIED_TWICE = re.compile(rf"^=+ {TITLE} =+$.*?(?=^==)", re.MULTILINE | re.DOTALL)


class Outcome(NamedTuple):
    """How a scenario ended, what it said of failures, and of its tests that were tried twice."""

    status: int
    output: str
    tried_twice: list[str]


class Outcomes:
    """The folder in which each scenario that has ended leaves its outcome, and the first test that waits a note."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._note = folder / "awaited"

    @property
    def are_awaited(self) -> bool:
        """Whether a test has waited for an outcome."""
        return self._note.exists()

    def wait_for(self, name: str) -> Outcome:
        path = self.folder / f"{name}.json"
        while not path.exists():
            self._note.touch()
            time.sleep(0.5)
        return Outcome(*json.loads(path.read_text()))

    def leave(self, name: str, outcome: Outcome) -> None:
        part = self.folder / f"{name}.part"
        part.write_text(json.dumps(outcome))
        part.rename(self.folder / f"{name}.json")


class Scenarios:
    """Runs `molecule test` for the scenarios in the background: one at a time, and two once a test waits for one."""

    def __init__(self, names: Iterable[str], outcomes: Outcomes) -> None:
        self._lock = threading.Lock()
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._stopped = threading.Event()
        self._left = deque(names)
        self._outcomes = outcomes
        self._runners = [threading.Thread(target=runner) for runner in (self._test_all, self._test_when_awaited)]
        for runner in self._runners:
            runner.start()

    def stop(self) -> None:
        """End what still runs, as when the session is interrupted, and remove what it made."""
        with self._lock:
            self._stopped.set()
            for process in self._processes:
                kill_tree(process)
        for runner in self._runners:
            runner.join()

    def _test_when_awaited(self) -> None:
        while self._left and not self._outcomes.are_awaited:
            if self._stopped.wait(0.5):
                return
        self._test_all()

    def _test_all(self) -> None:
        while name := self._next():
            try:
                outcome = self._test(name)
            except Exception as error:  # a test waits for the outcome, whatever it is
                outcome = Outcome(-1, f"the scenario could not be run: {error!r}", [])
            if outcome is None:
                return
            self._outcomes.leave(name, outcome)

    def _next(self) -> str | None:
        with self._lock:
            return self._left.popleft() if self._left else None

    def _test(self, name: str) -> Outcome | None:
        with tempfile.TemporaryFile() as output:
            with self._lock:
                if self._stopped.is_set():
                    return None
                process = _start("test", name, output)
                self._processes.add(process)
            try:
                status = process.wait(_SECONDS)
            except subprocess.TimeoutExpired:
                kill_tree(process)
                status = process.wait()
            with self._lock:
                self._processes.remove(process)
            if status < 0:
                _start("destroy", name, output).wait()
            output.seek(0)
            said = output.read().decode(errors="replace")
            return Outcome(status, _of_failures(said), _TRIED_TWICE.findall(said))


def _of_failures(said: str) -> str:
    """What failed and how, the names of the tests first, as reports are cut; else the end of what was said."""
    found = _FAILURES.search(said)
    shown = said[found.start() :][:_LAST_CHARACTERS] if found else said[-_LAST_CHARACTERS:]
    return "\n".join([*_FAILED.findall(said), shown])


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


_outcomes = pytest.StashKey[Outcomes]()
_running = pytest.StashKey[Scenarios]()


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.stash[_outcomes] = Outcomes(Path(tempfile.mkdtemp(prefix="scenarios-")))
    elif "scenarios" in config.workerinput:
        config.stash[_outcomes] = Outcomes(Path(config.workerinput["scenarios"]))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Of pytest-xdist: tell a worker where the outcomes will be."""
    node.workerinput["scenarios"] = str(node.config.stash[_outcomes].folder)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: Any, ids: list[str]) -> None:
    """Of pytest-xdist: a worker knows which tests there are."""
    _run(node.config, re.findall(r"^tests/molecule/.*\[(\w+)\]$", "\n".join(ids), re.MULTILINE))


def pytest_collection_finish(session: pytest.Session) -> None:
    if not hasattr(session.config, "workerinput") and not session.config.option.collectonly:
        here = [item for item in session.items if item.path.parent == _HERE]
        _run(session.config, [item.callspec.params["scenario"] for item in here])


def _run(config: pytest.Config, names: list[str]) -> None:
    if names and _running not in config.stash and not missing():
        config.stash[_running] = Scenarios(names, config.stash[_outcomes])


def pytest_unconfigure(config: pytest.Config) -> None:
    if scenarios := config.stash.get(_running, None):
        scenarios.stop()
    if _outcomes in config.stash and not hasattr(config, "workerinput"):
        shutil.rmtree(config.stash[_outcomes].folder)


@pytest.fixture(scope="session")
def scenarios(pytestconfig: pytest.Config) -> Outcomes:
    """How the scenarios that the session started ended."""
    if _outcomes not in pytestconfig.stash:
        pytest.fail("with -n, name tests/molecule itself: the controlling process has to run the scenarios")
    return pytestconfig.stash[_outcomes]
