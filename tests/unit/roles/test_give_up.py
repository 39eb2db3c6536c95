"""A worker that may be stuck is stopped in bounded time: its processes are killed before it is killed itself."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.unit.roles import plugins

give_up = plugins.load("celery_worker/files/give_up.py")

# Like a worker whose processes stand still: told to stop, it waits for the process that it has started.
_WORKER = """
import signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import signal; print('up', flush=True); signal.pause()"],
                         stdout=subprocess.PIPE)
child.stdout.readline()
signal.signal(signal.SIGTERM, lambda *_: None)
print("ready", flush=True)
signal.pause()
child.wait()
{then}
print("gave its messages back", flush=True)
"""


class Systemctl:
    """What systemctl does with a unit whose main process this is."""

    def __init__(self, main: "subprocess.Popen[str]") -> None:
        self.main = main
        self.verbs: list[str] = []

    def run(self, command: list[str], **_: object) -> "subprocess.CompletedProcess[str]":
        verb = command[1]
        pid = self.main.pid if self.main.poll() is None else 0
        if verb != "show":
            self.verbs.append(verb)
        if verb == "stop" and "--no-block" in command:
            self.main.terminate()
        elif verb == "kill":
            self.main.kill()
        elif verb == "stop":
            self.main.wait(30)
        return subprocess.CompletedProcess(command, 0, f"{pid}\n")


@pytest.fixture
def worker(request: pytest.FixtureRequest) -> Iterator["subprocess.Popen[str]"]:
    code = _WORKER.format(then=request.param)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        for child in give_up.children(process.pid):
            give_up.os.kill(child, give_up.signal.SIGKILL)
        process.kill()


@pytest.mark.parametrize("worker", [""], indirect=True)
def test_a_worker_whose_processes_stand_still_gives_its_messages_back(
    worker: "subprocess.Popen[str]", monkeypatch: pytest.MonkeyPatch
) -> None:
    systemctl = Systemctl(worker)
    monkeypatch.setattr(give_up.subprocess, "run", systemctl.run)
    assert len([*give_up.children(worker.pid)]) == 1

    give_up.stop(2, ["celery-worker.service"])

    assert worker.stdout is not None
    assert worker.stdout.read() == "gave its messages back\n"
    assert systemctl.verbs == ["stop", "stop"]


@pytest.mark.parametrize("worker", ["signal.pause()"], indirect=True)
def test_a_worker_that_does_not_end_then_either_is_killed(
    worker: "subprocess.Popen[str]", monkeypatch: pytest.MonkeyPatch
) -> None:
    systemctl = Systemctl(worker)
    monkeypatch.setattr(give_up.subprocess, "run", systemctl.run)

    give_up.stop(0.5, ["celery-worker.service"])

    assert systemctl.verbs == ["stop", "kill", "stop"]
    assert worker.wait(30) < 0
