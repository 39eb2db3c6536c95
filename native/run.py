"""`python -m native.run PROGRAM STATE`: becomes one program of the stack; what the supervisor starts.

Secrets reach the program through its environment, never on a command line or in the supervisor's configuration,
and the process id, which stays the same, is noted with its start time: a later `up` finds what a killed supervisor
has left behind without guessing by names.
"""

import json
import os
import resource
import sys
from pathlib import Path


def started_at(pid: int) -> str | None:
    """When the kernel started a process, in ticks since boot: with the id, it names one process for ever."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return stat.rpartition(")")[2].split()[19]


def main(program: str, folder: Path, pids: Path) -> None:
    """Note the process id and become the program."""
    command = json.loads((folder / "programs.json").read_text())[program]
    environment = {**os.environ, "METABUILDER_PROGRAM": program}
    if command["environment"]:
        settings = json.loads((folder / "environment.json").read_text())
        environment |= {name: value for name, value in settings.items() if name not in command["withheld"]}
    if command.get("own_environment"):
        environment |= json.loads((folder / command["own_environment"]).read_text())
    (pids / f"{program}.pid").write_text(f"{os.getpid()} {started_at(os.getpid())}\n")
    # No core files, because they would hold secrets and mail.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.execvpe(command["command"][0], command["command"], environment)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
