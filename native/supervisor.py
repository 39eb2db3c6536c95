"""supervisord: its configuration, starting it, and talking to it through its socket."""

import os
import shlex
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from native.errors import StackError
from native.run import started_at
from native.state import ROOT, State, write_private

UP = ("RUNNING", "STARTING", "BACKOFF")
_START_SECONDS = 15


@dataclass(frozen=True)
class Program:
    """One program of the stack as the supervisor runs it."""

    name: str
    command: tuple[str, ...]
    stop_signal: str = "TERM"
    stop_seconds: int = 30
    needs_environment: bool = True
    withheld: tuple[str, ...] = ()  # secrets of the environment that the program does not get
    own_environment: str = ""  # a JSON file of the state folder with further variables


@dataclass(frozen=True)
class Status:
    """The supervisor's state of a program. `started` is in Unix seconds."""

    name: str
    state: str
    pid: int
    started: int
    problem: str

    @property
    def is_running(self) -> bool:
        return self.state == "RUNNING"


class Supervisor:
    """The supervisor of one state folder."""

    def __init__(self, state: State) -> None:
        self.state = state

    def configure(self, programs: Iterable[Program]) -> None:
        """Write the configuration. It holds no secret."""
        write_private(self.state.supervisor_config, _config(self.state, programs))

    def is_alive(self) -> bool:
        """Whether the supervisor answers on its socket."""
        try:
            return bool(self._call("supervisor.getState"))
        except StackError:
            return False

    def start(self, environment: Mapping[str, str]) -> None:
        """Start the supervisor. Files of a killed supervisor do no harm.

        Raises StackError when it does not answer.
        """
        self.state.socket.unlink(missing_ok=True)
        command = [sys.executable, "-m", "supervisor.supervisord", "--nodaemon"]
        log = self.state.logs / "supervisord-start.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, "-c", str(self.state.supervisor_config)],
                cwd=ROOT,
                env=dict(environment),
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        note_pid(self.state, "supervisord", process.pid)
        deadline = time.monotonic() + _START_SECONDS
        while not self.is_alive():
            if process.poll() is not None or time.monotonic() > deadline:
                raise StackError(f"supervisord did not start: {log.read_text()[-500:]}")
            time.sleep(0.05)

    def shut_down(self) -> None:
        """Stop the supervisor and all programs that still run."""
        pid = noted_pid(self.state, "supervisord")
        self._call("supervisor.shutdown")
        deadline = time.monotonic() + 60
        while pid and noted_pid(self.state, "supervisord") == pid and time.monotonic() < deadline:
            time.sleep(0.05)

    def reload(self) -> set[str]:
        """Read a changed configuration. Returns the names of the programs that were added, changed or removed."""
        [[added, changed, removed]] = self._call("supervisor.reloadConfig")
        for name in [*removed, *changed]:
            self.stop([name])
            self._call("supervisor.removeProcessGroup", name)
        for name in [*added, *changed]:
            self._call("supervisor.addProcessGroup", name)
        return {*added, *changed, *removed}

    def status(self) -> dict[str, Status]:
        """The programs by name; empty when the supervisor is down."""
        try:
            found = self._call("supervisor.getAllProcessInfo")
        except StackError:
            return {}
        return {
            info["name"]: Status(info["name"], info["statename"], info["pid"], info["start"], info["spawnerr"])
            for info in found
        }

    def start_program(self, name: str) -> None:
        """Start a program unless it runs already."""
        if (known := self.status().get(name)) and known.state not in UP:
            self._call("supervisor.startProcess", name, False)

    def stop(self, names: Iterable[str]) -> list[str]:
        """Stop programs at the same time and wait until all have stopped, each for at most its own `stop_seconds`.

        Returns the names of those that ran.
        """
        running = [name for name in names if (known := self.status().get(name)) and known.state in UP]
        for name in running:
            self._call("supervisor.stopProcess", name, False)
        while any(self.status()[name].state in (*UP, "STOPPING") for name in running if name in self.status()):
            time.sleep(0.05)
        return running

    def _call(self, method: str, *arguments: object) -> Any:
        # Imported here, because the import takes a tenth of a second, which `help` and `version` need not wait for.
        from supervisor.xmlrpc import SupervisorTransport

        transport = SupervisorTransport(None, None, f"unix://{self.state.socket}")
        try:
            with xmlrpc.client.ServerProxy("http://supervisor", transport=transport) as proxy:
                return getattr(proxy, method)(*arguments)
        except OSError as error:
            raise StackError("the native stack is down: ./manage.sh up") from error
        except xmlrpc.client.Fault as error:
            raise StackError(f"supervisord refuses {method}: {error.faultString}") from error


def note_pid(state: State, name: str, pid: int) -> None:
    """Write down which process is `name`."""
    (state.run / f"{name}.pid").write_text(f"{pid} {started_at(pid)}\n")


def noted_pid(state: State, name: str) -> int | None:
    """The process that was noted as `name`, if that very process still runs."""
    try:
        pid, started = (state.run / f"{name}.pid").read_text().split()
    except (OSError, ValueError):
        return None
    if started_at(int(pid)) != started:
        return None
    try:
        return int(pid) if psutil.Process(int(pid)).status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def _config(state: State, programs: Iterable[Program]) -> str:
    user = "user = root\n" if os.geteuid() == 0 else ""
    head = (
        "[unix_http_server]\n"
        f"file = {_plain(state.socket)}\n"
        "chmod = 0700\n\n"
        "[supervisord]\n"
        "silent = true\n"
        f"logfile = {_plain(state.logs / 'supervisord.log')}\n"
        "logfile_maxbytes = 5MB\n"
        "logfile_backups = 2\n"
        f"pidfile = {_plain(state.run / 'supervisord-own.pid')}\n"
        f"childlogdir = {_plain(state.logs)}\n"
        f"directory = {_plain(ROOT)}\n"
        "umask = 077\n"
        f"{user}\n"
        "[rpcinterface:supervisor]\n"
        "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n"
    )
    return head + "".join(_section(state, program) for program in programs)


def _section(state: State, program: Program) -> str:
    command = shlex.join([sys.executable, "-m", "native.run", program.name, str(state.folder), str(state.run)])
    return (
        f"\n[program:{program.name}]\n"
        f"command = {_plain(command)}\n"
        f"directory = {_plain(ROOT)}\n"
        # `up` starts the programs in order, each when what it needs is ready.
        "autostart = false\n"
        "autorestart = true\n"
        "startsecs = 1\n"
        "startretries = 10\n"
        f"stopsignal = {program.stop_signal}\n"
        f"stopwaitsecs = {program.stop_seconds}\n"
        "killasgroup = true\n"
        # supervisor expands this value twice.
        f"stdout_logfile = {_plain(_plain(state.logs / f'{program.name}.log'))}\n"
        "stdout_logfile_maxbytes = 20MB\n"
        "stdout_logfile_backups = 3\n"
        "redirect_stderr = true\n"
    )


def _plain(value: Path | str) -> str:
    """A value, escaped so that supervisor expands nothing in it."""
    return str(value).replace("%", "%%")
