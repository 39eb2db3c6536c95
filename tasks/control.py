"""Looks at tasks and steers them, for the application and the command line."""

from typing import Any

from celery import current_app, states

from tasks.owners import Owner
from tasks.results import WAITING


def get_task_status(task_id: str, *, tenant_id: str | None = None, user_id: str | None = None) -> dict[str, Any]:
    """`state`, and what belongs to it: `progress` while it runs, `result` after success, `error` after failure, and
    `waiting` (docs/tasks.md) of mail that is tried again later.

    An unknown or expired id is PENDING, as one that waits in its queue is: Celery keeps no list of them. With
    `tenant_id`, and `user_id` where one user asks, so is a task of anybody else: pass them whenever the id comes from
    a person. Raises ValueError for a user without a tenant.
    """
    caller = _caller(tenant_id, user_id)
    meta = current_app.backend.get_task_meta(task_id)
    if caller and not caller.owns(meta):
        return {"task_id": task_id, "state": states.PENDING}
    state, info = meta["status"], meta["result"]
    status: dict[str, Any] = {"task_id": task_id, "state": state}
    if state == "PROGRESS":
        status["progress"] = info
    elif state == WAITING:
        status["waiting"] = info
    elif state == states.SUCCESS:
        status["result"] = info
    elif state == states.FAILURE or isinstance(info, BaseException):
        status["error"] = str(info)
        status["error_code"] = getattr(info, "code", type(info).__name__)
    return status


def revoke_task(
    task_id: str, *, terminate: bool = False, tenant_id: str | None = None, user_id: str | None = None
) -> None:
    """Keep a task from starting; with `terminate` stop it where it runs. A sync stopped so goes on at its checkpoint
    the next time.

    With `tenant_id`, and `user_id` where one user asks, only if the task is theirs; else nothing happens, and nothing
    tells whether there is such a task. Raises ValueError for a user without a tenant.
    """
    caller = _caller(tenant_id, user_id)
    if caller is None or caller.owns(current_app.backend.get_task_meta(task_id)):
        current_app.control.revoke(task_id, terminate=terminate)
    else:
        # Whose it is is not known before it begins. Its worker knows it then (tasks/request.py).
        current_app.control.revoke(caller.mark(task_id))


def get_active_tasks(*, tenant_id: str | None = None, user_id: str | None = None) -> dict[str, list[dict[str, Any]]]:
    """The tasks that run now, by worker, their arguments as they may be shown: identifiers, and sizes of the rest.

    With `tenant_id`, and `user_id` where one user asks, only theirs. Raises ValueError for a user without a tenant.
    """
    caller, meta_of = _caller(tenant_id, user_id), current_app.backend.get_task_meta
    active = current_app.control.inspect().active(safe=True) or {}
    return {
        worker: [task for task in running if caller is None or caller.owns(meta_of(task["id"]))]
        for worker, running in active.items()
    }


def get_queue_stats() -> dict[str, int]:
    """How many messages wait in each queue, of all priorities."""
    with current_app.connection_for_read() as connection:
        channel = connection.default_channel
        return {name: channel.queue_declare(name).message_count for name in current_app.amqp.queues}


def _caller(tenant_id: str | None, user_id: str | None) -> Owner | None:
    if tenant_id is None and user_id is not None:
        raise ValueError("user_id is given without tenant_id: a user is one of a tenant")
    return None if tenant_id is None else Owner(tenant_id, user_id)
