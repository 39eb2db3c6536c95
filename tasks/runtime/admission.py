"""Whether this release can run a message: it is one, it has the task, and the task takes the arguments."""

from typing import Any

from celery import Celery, Task

from tasks.errors import MessageUnreadableError, TaskUnknownError
from tasks.runtime.broker import envelope
from tasks.runtime.task import EmailTask

# What `./manage.sh health` has a worker run: Celery's own, which does nothing but give back an argument.
PROBE = "celery.accumulate"


def admit(app: Celery, name: str, body: object) -> tuple[Task, list[Any], dict[str, Any]]:
    """The task of this name, and its arguments out of the decoded body.

    Raises MessageUnreadableError, and TaskUnknownError for what a newer release may know.
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
    """The same for a message as it is kept in Redis."""
    envelope.check_envelope(raw)
    admit(app, raw["headers"]["task"], envelope.read_body(raw))
