"""Looks at tasks and steers them, for the application and the command line."""

from typing import Any

from celery import current_app
from celery.result import AsyncResult


def get_task_status(task_id: str) -> dict[str, Any]:
    """`state`, and what belongs to it: `progress` while it runs, `result` after success, `error` after failure.

    An unknown or expired id is PENDING, as one that waits in its queue is: Celery keeps no list of them.
    """
    result = AsyncResult(task_id, app=current_app)
    state, info = result.state, result.info
    status: dict[str, Any] = {"task_id": task_id, "state": state}
    if state == "PROGRESS":
        status["progress"] = info
    elif state == "SUCCESS":
        status["result"] = info
    elif state == "FAILURE" or isinstance(info, BaseException):
        status["error"] = str(info)
        status["error_code"] = getattr(info, "code", type(info).__name__)
    return status


def revoke_task(task_id: str, *, terminate: bool = False) -> None:
    """Keep a task from starting; with `terminate` stop it where it runs. A sync stopped so goes on at its checkpoint
    the next time."""
    current_app.control.revoke(task_id, terminate=terminate)


def get_active_tasks() -> dict[str, list[dict[str, Any]]]:
    """The tasks that run now, by worker."""
    return current_app.control.inspect().active() or {}


def get_queue_stats() -> dict[str, int]:
    """How many messages wait in each queue, of all priorities."""
    with current_app.connection_for_read() as connection:
        channel = connection.default_channel
        return {name: channel.queue_declare(name).message_count for name in current_app.amqp.queues}
