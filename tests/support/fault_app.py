"""The application with a task that fails or kills its worker in the way it is told to, until it is mended."""

import gc
import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from tasks.celery_app import create_celery_app
from tasks.errors import PermanentError
from tasks.runtime.task import EmailTask

app = create_celery_app()
app.conf.task_create_missing_queues = True
if visibility := os.environ.get("FAULT_VISIBILITY_TIMEOUT"):
    # Shorter than the settings allow.
    app.conf.broker_transport_options = {**app.conf.broker_transport_options, "visibility_timeout": int(visibility)}


class WrongError(PermanentError):
    """It is wrong."""

    code = "wrong"


# More than any that is to be stopped comes to.
_MAX_DEATHS = 6


def runs(folder: str | Path) -> int:
    """How often it was begun."""
    return len(list(Path(folder).glob("run-*")))


def deaths(folder: str | Path) -> int:
    """How often it killed its worker."""
    return len(list(Path(folder).glob("death-*")))


def done(folder: str | Path) -> Counter[int]:
    """How often each number was done."""
    return Counter(int(path.name.split("-")[1]) for path in Path(folder).glob("done-*"))


def begun(folder: str | Path) -> int:
    """How often any of them was begun."""
    return len(list(Path(folder).glob("begun-*")))


def hold(folder: str | Path) -> Path:
    """A file: tasks that are begun go on when it is removed."""
    held = Path(folder) / "held"
    held.touch()
    return held


def _die(task: Any, folder: Path, what: str) -> None:
    if what != "die" and task.request.delivery_info["redelivered"]:
        task.snooze(WrongError("somebody else is at it"), 0.1)
    if what == "get on and die":
        task.made_progress()
    (folder / f"death-{time.time_ns()}").touch()
    os.kill(os.getpid(), signal.SIGKILL)


# Not shared: a shared task is registered with every application of the process, the real one too.
@app.task(bind=True, base=EmailTask, name="test.fault", max_retries=2, shared=False)
def fault(self: Any, tenant_id: str, user_id: str, folder_id: str, what: str, words: str) -> str:
    """Do `what` unless the folder says that it is mended."""
    folder = Path(folder_id)
    (folder / f"run-{time.time_ns()}").touch()
    if (folder / "mended").exists():
        return "done"
    if what.endswith("die") and deaths(folder) < _MAX_DEATHS:
        _die(self, folder, what)
    if what == "hang":
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                time.sleep(1)
            except Exception:  # the soft time limit, which it does not heed
                continue
    if what == "slow":
        time.sleep(1)
    if what in ("slow", "get on and die"):
        return "done"
    if what == "memory":
        raise MemoryError
    raise WrongError("for ann@example.org")


@app.task(bind=True, base=EmailTask, name="test.count", is_unique_per_call=True, shared=False)
def count(self: Any, tenant_id: str, user_id: str, folder_id: str, number: int) -> int:
    """Leave a mark that it was begun, and that it was done, after a moment, or when it may go on."""
    folder = Path(folder_id)
    (folder / f"begun-{number}-{time.time_ns()}").touch()
    time.sleep(0.05)
    while (folder / "held").exists():
        time.sleep(0.01)
    (folder / f"done-{number}-{time.time_ns()}").touch()
    return number


@app.task(bind=True, base=EmailTask, name="test.collect", shared=False)
def collect(self: Any, tenant_id: str, user_id: str) -> int:
    """How many bytes the process no longer shares with the worker once its garbage was collected."""
    before = psutil.Process().memory_full_info().uss
    gc.collect()
    return psutil.Process().memory_full_info().uss - before
