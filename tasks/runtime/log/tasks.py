"""Gives the lines of a task its name and id, its tenant and its account.

The process that runs the task does so from the signal before the task to the signal after the task, so that Celery's
line on the outcome has the fields too; the worker's main process, while it handles the task's message.
"""

import time
from collections.abc import Mapping
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

from celery.signals import task_postrun, task_prerun

from tasks import log_fields
from tasks.log_fields import Field, Fields

# The fields around the task at work, and when it began by time.monotonic().
_before: ContextVar[tuple[Fields, float] | None] = ContextVar("_before", default=None)


def connect() -> None:
    """Have the tasks of this process set the fields of their lines."""
    task_prerun.connect(_begin)
    task_postrun.connect(_end)


def fields_of(task: Any, task_id: str, args: Any, kwargs: Any) -> dict[Field, object]:
    """The fields of the lines of a task with these arguments."""
    given: Mapping[str, object] = {}
    with suppress(AttributeError, TypeError):  # a task of Celery's own, or arguments that it does not take
        given = task.arguments(args, kwargs)
    return log_fields.known(
        {
            Field.TASK: short_name(task.name),
            Field.TASK_ID: task_id,
            Field.TENANT: given.get("tenant_id"),
            Field.ACCOUNT: given.get("email_client_id"),
        }
    )


def short_name(name: str) -> str:
    """The last part of a task's name: the name of its function."""
    return name.rpartition(".")[2]


def elapsed() -> float:
    """Seconds since the task at work began; 0 outside of tasks."""
    before = _before.get()
    return time.monotonic() - before[1] if before else 0.0


def _begin(task: Any, task_id: str, args: Any, kwargs: Any, **_: Any) -> None:
    _before.set((log_fields.current(), time.monotonic()))
    log_fields.use(fields_of(task, task_id, args, kwargs))


def _end(**_: Any) -> None:
    before = _before.get()
    log_fields.use(before[0] if before else {})
    _before.set(None)
