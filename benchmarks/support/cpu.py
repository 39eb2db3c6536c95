"""CPU time of the programs of a benchmark: unlike seconds, it hardly depends on what else the machine does."""

from collections import Counter
from contextlib import suppress

import psutil

_POSTGRES = "postgres"


def cpu_seconds() -> Counter[str]:
    """CPU seconds so far of this process and all that it started and that still run, by what they do.

    PostgreSQL's have those of its connections that were closed meanwhile.
    """
    benchmark = psutil.Process()
    used: Counter[str] = Counter()
    for process in [benchmark, *benchmark.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):  # it has just ended
            times, role = process.cpu_times(), "benchmark" if process == benchmark else _role(process)
            used[role] += times.user + times.system
            if role == _POSTGRES:
                used[role] += times.children_user + times.children_system
    return used


def _role(process: psutil.Process) -> str:
    command, parent = " ".join(process.cmdline()), process.parent()
    if "benchmarks.support.smtp_sink" in command:
        return "smtp server"
    if "benchmarks.support.watched_server" in command:
        return "mail server"
    if "tasks.watch" in command:
        return "watcher"
    if "celery" in command:
        return "worker's children" if parent and "celery" in " ".join(parent.cmdline()) else "worker"
    return str(process.name())
