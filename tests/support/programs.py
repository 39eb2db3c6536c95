"""Starts the project's Python programs, from a process that has loaded their modules already.

Loading is most of the work of a start. The program itself begins anew: it reads its settings, and connects, after the
fork.
"""

import atexit
import mmap
import os
import runpy
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from multiprocessing import current_process, get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Protocol

from tasks.engine import shutdown

_ROOT = Path(__file__).parents[2]
# None of them reads settings or connects when it is loaded.
_MODULES = (
    "celery.app.log",
    "celery.apps.worker",
    "celery.bin.celery",
    "celery.concurrency.prefork",
    "celery.worker.autoscale",
    "celery.worker.components",
    "celery.worker.strategy",
    "kombu.transport.redis",
    "sqlalchemy.dialects.postgresql.psycopg2",
    "tasks.celery_app",
    "tasks.runtime.consumer",
    "tasks.runtime.pool",
    "tasks.runtime.request",
    "tasks.runtime.revocations",
    "tests.support.frozen",
)
# Read by the dynamic linker, the C library or the interpreter when a program starts: a fork would not heed them.
_READ_AT_START = ("LD_", "LC_", "LANG", "MALLOC_", "PYTHON", "TZ")

_context = get_context("forkserver")
_context.set_forkserver_preload(list(_MODULES))


class Program(Protocol):
    """A program that was started; its methods are those of `subprocess.Popen`."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def kill(self) -> None: ...


class _Forked:
    def __init__(self, process: ForkServerProcess) -> None:
        self._process = process
        process.start()
        assert process.pid
        self.pid = process.pid
        while (
            process.is_alive() and os.getpgid(self.pid) != self.pid
        ):  # until then it cannot be killed with its group
            time.sleep(0.001)

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0)
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()


def start(module: str, arguments: Sequence[str], log: Path, *, forked: bool = True, **environment: str) -> Program:
    """Start `python -m module` in a session of its own; its output goes to `log`.

    It has the environment of this moment, with the variables that are given. With `forked=False` it loads all of its
    modules itself, as in production, for tests of what loading does.
    """
    log.touch()
    environment = {**os.environ, **environment}
    if forked and _read_at_start(environment) == _AT_START:
        return _Forked(_context.Process(target=_run, args=(module, list(arguments), environment, log)))
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=_ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def _read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(_READ_AT_START)}


_AT_START = _read_at_start(os.environ)


def _run(module: str, arguments: list[str], environment: dict[str, str], log: Path) -> None:
    os.setsid()
    os.chdir(_ROOT)
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    for number in (1, 2):
        os.dup2(output, number)
    os.close(output)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [module, *arguments]
    current_process().name = "MainProcess"  # as in a process that was not forked
    # Made when the module was loaded, so that all programs of this process would stop with the first.
    shutdown._requested = mmap.mmap(-1, 1)
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()
