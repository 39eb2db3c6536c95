"""Checks that this release can run a task message: that it knows the task, and that the task takes the arguments."""

from typing import Any

from celery import Celery, Task

from tasks.errors import MessageUnreadableError, TaskUnknownError
from tasks.runtime.broker import envelope
from tasks.runtime.task import EmailTask

# The task of a canary (tasks/monitoring/canary.py): one of Celery's own, which does nothing but return an argument.
PROBE = "celery.accumulate"


def admit(app: Celery, name: str, body: object) -> tuple[Task, list[Any], dict[str, Any]]:
    """The task of this name, and its positional and named arguments, read from the decoded body.

    Raises MessageUnreadableError, and TaskUnknownError for a task or an argument that a newer release may know.
    """
    args, kwargs = envelope.open_body(body)
    task = app.tasks.get(name)
    if task is None:
        raise TaskUnknownError("the task")
    if name == PROBE:
        return task, args, kwargs
    if not isinstance(task, EmailTask):
        raise MessageUnreadableError("no message may ask for this task")
    try:
        task.check_arguments(args, kwargs)
    except TypeError:
        raise TaskUnknownError("its arguments") from None
    except ValueError as error:
        raise MessageUnreadableError(str(error)) from None
    return task, args, kwargs


def admit_raw(app: Celery, raw: Any) -> None:
    """Check a task message in the form in which Redis keeps it. Raises what `admit` raises."""
    envelope.check_envelope(raw)
    admit(app, raw["headers"]["task"], envelope.read_body(raw))
