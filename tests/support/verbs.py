"""Runs verbs of the command line as processes, many beside each other, of which only the first loads the program."""

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

# What has not ended by itself by then is killed. One takes 5 s at most; here, many at once load the program.
_SECONDS = 120
# What takes long to load, and reads no settings before it is asked for something.
_MODULES = ("manage.cli", "tasks.celery_app", "tests.support.frozen")


class Ended(NamedTuple):
    """How a verb ended, after how many seconds, and what it said."""

    status: int
    seconds: float
    stdout: str
    stderr: str

    @property
    def lines(self) -> list[str]:
        """What it said on stderr."""
        return self.stderr.splitlines()


class Verb(NamedTuple):
    """What is run, and with which variables beside those of the test."""

    arguments: Sequence[str]
    environment: Mapping[str, str]


def run_all(folder: Path, verbs: Mapping[str, Verb]) -> dict[str, Ended]:
    """Run them at once, as `metabuilder` does on a host."""
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", __name__, str(folder)],
        input=json.dumps(verbs),
        env={**os.environ, "METABUILDER_COMMAND": "metabuilder"},
        capture_output=True,
        text=True,
        timeout=_SECONDS + 30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {name: Ended(*ended) for name, ended in json.loads(done.stdout).items()}


def _run(arguments: Sequence[str], environment: Mapping[str, str], output: Path) -> int:
    os.environ.update(environment)
    if "METABUILDER_COMMAND" in environment:  # by which the command line knows, once loaded, where it is
        for module in [name for name in sys.modules if name.partition(".")[0] == "manage"]:
            del sys.modules[module]
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(output.with_suffix(f".{name}"), os.O_WRONLY | os.O_CREAT), number)
    from manage.cli import main

    try:
        main(list(arguments), prog_name="metabuilder")
    except SystemExit as ended:
        return int(ended.code or 0)
    except BaseException:  # as Python itself says it
        traceback.print_exc()
    return 1


def _main(folder: Path) -> None:
    for module in _MODULES:
        import_module(module)

    began, running, ended = {}, {}, {}
    for name, (arguments, environment) in json.load(sys.stdin).items():
        began[name] = time.monotonic()
        if not (pid := os.fork()):
            status = _run(arguments, environment, folder / name)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        running[pid] = name
    signal.signal(signal.SIGALRM, lambda *_: [os.kill(pid, signal.SIGKILL) for pid in running])
    signal.alarm(_SECONDS)
    while running:
        pid, status = os.wait()
        name = running.pop(pid)
        said = [(folder / name).with_suffix(f".{stream}").read_text() for stream in ("stdout", "stderr")]
        ended[name] = os.waitstatus_to_exitcode(status), time.monotonic() - began[name], *said
    print(json.dumps(ended))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
