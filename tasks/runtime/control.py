"""Looks at tasks and steers them, for the application and the command line.

All raise BrokerUnavailableError where Redis does not answer, and ValueError for an argument that is no identifier or
for a user without a tenant.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import current_app, states
from celery.app.control import Control as CeleryControl
from kombu.exceptions import OperationalError
from kombu.pidbox import Mailbox
from redis import RedisError

from tasks.errors import BrokerUnavailableError
from tasks.runtime.arguments import check_identifier
from tasks.runtime.commands import guarded
from tasks.runtime.owners import Owner
from tasks.runtime.results import WAITING


class _Mailbox(Mailbox):  # type: ignore[misc]  # kombu has no types
    """Takes the commands that this product uses.

    Sends an answer once, without trying again: a worker answers
    from its event loop, which kombu would block for 20 s.
    """

    def Node(self, *args: Any, handlers: Any = None, **options: Any) -> Any:  # noqa: N802 - kombu's name
        """As kombu's: a worker's side, with only the commands that it obeys (tasks/runtime/commands.py)."""
        return super().Node(*args, handlers=guarded(handlers or {}), **options)

    def _publish_reply(self, *args: Any, **options: Any) -> None:
        super()._publish_reply(*args, **{"retry_policy": {"max_retries": 0}, **options})


class Control(CeleryControl):  # type: ignore[misc]  # celery has no types
    """Celery's, with a connection for each command. A pooled connection of a process that rarely asks may have been
    closed by Redis or by a firewall since the last command, and Celery does not try a second time."""

    Mailbox = _Mailbox

    def broadcast(self, *args: Any, connection: Any = None, channel: Any = None, **options: Any) -> Any:
        """Send a command to workers. With `reply`, returns their answers."""
        if connection or channel:
            return super().broadcast(*args, connection=connection, channel=channel, **options)
        with self.app.connection_for_write() as fresh:
            return super().broadcast(*args, connection=fresh, **options)


def get_task_status(task_id: str, *, tenant_id: str | None = None, user_id: str | None = None) -> dict[str, Any]:
    """`state`, and what belongs to it: `progress` while it runs, `result` after success, `error` after failure, and
    `waiting` (docs/tasks.md) of mail that is tried again later.

    The state of an unknown or expired id is PENDING, like that of a task that waits in its queue, because Celery
    keeps no list of waiting tasks. With `tenant_id` (and `user_id` where one user asks), a task of anybody else is
    PENDING too: pass both whenever the id comes from a person.
    """
    check_identifier("task_id", task_id)
    caller = _caller(tenant_id, user_id)
    with _redis_errors_as_ours():
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
    """Keep a task from starting; with `terminate` stop it where it runs. A sync that was stopped goes on at its
    checkpoint the next time.

    With `tenant_id` (and `user_id` where one user asks), a task of anybody else is left alone, and the caller does
    not learn whether there is such a task.
    """
    check_identifier("task_id", task_id)
    caller = _caller(tenant_id, user_id)
    with _redis_errors_as_ours():
        if caller is None or caller.owns(current_app.backend.get_task_meta(task_id)):
            current_app.control.revoke(task_id, terminate=terminate)
        else:
            # The owner of a task is not known before the task begins; then its worker compares owners
            # (tasks/runtime/request.py).
            current_app.control.revoke(caller.mark(task_id))


def get_active_tasks(*, tenant_id: str | None = None, user_id: str | None = None) -> dict[str, list[dict[str, Any]]]:
    """The tasks that run now, by worker, their arguments as they may be shown: identifiers, and sizes of the rest.

    With `tenant_id` (and `user_id` where one user asks), only the tasks of that tenant or user.
    """
    caller, meta_of = _caller(tenant_id, user_id), current_app.backend.get_task_meta
    with _redis_errors_as_ours():
        active = current_app.control.inspect().active(safe=True) or {}
        return {
            worker: [task for task in running if caller is None or caller.owns(meta_of(task["id"]))]
            for worker, running in active.items()
        }


def get_queue_stats() -> dict[str, int]:
    """How many messages wait in each queue, of all priorities."""
    with _redis_errors_as_ours(), current_app.connection_for_read() as connection:
        channel = connection.default_channel
        return {name: channel.queue_declare(name).message_count for name in current_app.amqp.queues}


@contextmanager
def _redis_errors_as_ours() -> Iterator[None]:
    try:
        yield
    except BrokerUnavailableError:
        raise
    except (OperationalError, RedisError, OSError) as error:
        raise BrokerUnavailableError(str(error)) from error


def _caller(tenant_id: str | None, user_id: str | None) -> Owner | None:
    for name, value in {"tenant_id": tenant_id, "user_id": user_id}.items():
        if value is not None:
            check_identifier(name, value)
    if tenant_id is None and user_id is not None:
        raise ValueError("user_id is given without tenant_id: a user is one of a tenant")
    return None if tenant_id is None else Owner(tenant_id, user_id)
