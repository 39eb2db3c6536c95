"""Read from standard input by the Python of a host: stops workers that may be stuck, in bounded time.

The arguments are how many seconds a worker has to end, and the names of the units. A worker that stops waits for its
processes. When these are killed it gives back the messages that it has in hand, and other workers take them at once;
those of a worker that is killed itself come back after the visibility timeout. So its processes are killed first.
"""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time

LOOK_SECONDS = 0.2


def main_pid(unit):
    """The id of the main process of a unit; 0 if it has none."""
    command = ["systemctl", "show", "--property=MainPID", "--value", unit]
    return int(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout or 0)


def children(parent):
    """The ids of the processes that a process has started."""
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # pid (name) state parent, where a name may hold anything: proc(5).
            if int(stat.read_text(errors="replace").rpartition(")")[2].split()[1]) == parent:
                yield int(stat.parent.name)


def wait(workers, seconds):
    """Those of `workers`, by unit, whose main process is the same after these seconds."""
    deadline = time.monotonic() + seconds
    while (
        left := {unit: pid for unit, pid in workers.items() if main_pid(unit) == pid}
    ) and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
    return left


def stop(seconds, units):
    """Stop them, and return when they have ended."""
    workers = {unit: pid for unit in units if (pid := main_pid(unit))}
    subprocess.run(["systemctl", "stop", "--no-block", *units], check=True)
    for pid in wait(workers, seconds).values():
        for child in children(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
    for unit in wait(workers, seconds):
        subprocess.run(["systemctl", "kill", "--signal=KILL", unit], check=False)
    subprocess.run(["systemctl", "stop", *units], check=True)


if __name__ == "__main__":
    stop(float(sys.argv[1]), sys.argv[2:])
