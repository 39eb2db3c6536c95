"""Publishes the tasks that the application queued in its own transaction (docs/decisions/0045).

Rows are claimed, published and deleted in one transaction of PostgreSQL, in which Redis has no part. So each message
is put on its queue together with a mark with the row's id, in one step, and a message whose mark is there is not put
again: if a beat dies after it published rows, or its commit fails, these rows are published once more, to no effect.
A beat that stood still with rows in its hand puts nothing after the time of its claim.
"""

from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress

from celery import Celery, Task
from celery.utils.log import get_logger
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from tasks.registry import TASKS
from tasks.runtime.broker.clock import redis_now
from tasks.runtime.broker.scripts import forget_marks
from tasks.runtime.broker.transport import broker_client
from tasks.runtime.publish import publish_many
from tasks.storage.queued_tasks import CLAIM_SECONDS, Claim, QueuedTask, claimed

logger = get_logger("celery.beat")

# How much is claimed at once; beat holds it in memory some five times.
_MAX_TASKS, _MAX_BYTES = 1000, 4 * 1024 * 1024
_NAMES = {row.function: row.name for row in TASKS}


def publish_queued(app: Celery) -> bool:
    """Publish some of the rows. Returns whether there may be more.

    Raises StorageUnavailableError, kombu.exceptions.OperationalError and redis.exceptions.RedisError; then nothing is
    lost, and nothing will be published twice.
    """
    with claimed(_MAX_TASKS, _MAX_BYTES) as claim:
        if not claim.tasks:
            return False
        with broker_client(app) as client:
            deadline = redis_now(client) + CLAIM_SECONDS
        published = _publish(app, claim, deadline)
        claim.delete(published)
    with suppress(RedisError, OperationalError, OSError), broker_client(app) as client:
        forget_marks(client, [task.id for task in published])
    return True


def _publish(app: Celery, claim: Claim, deadline: float) -> list[QueuedTask]:
    published: list[QueuedTask] = []
    for task, rows in _by_task(app, claim):
        calls = [task.positional(row.arguments) for row in rows]
        publish_many(task, calls, [row.id for row in rows], once_before=deadline)
        published += rows
    return published


def _by_task(app: Celery, claim: Claim) -> Iterable[tuple[Task, list[QueuedTask]]]:
    """The rows of each task. Those that this release cannot publish are set aside."""
    found: dict[str, list[QueuedTask]] = defaultdict(list)
    for row in claim.tasks:
        if error := _mistake(app, row):
            claim.set_aside(row, error)
            logger.error("beat: a task queued in SQL cannot be published: %s %s: %s", row.name, row.id, error)
        else:
            found[row.name].append(row)
    return [(app.tasks[_NAMES[name]], rows) for name, rows in found.items()]


def _mistake(app: Celery, row: QueuedTask) -> str | None:
    """Why the row cannot be published: what was checked in SQL may be of another release than this."""
    name = _NAMES.get(row.name)
    if name is None:
        return "this release does not know the task"
    try:
        app.tasks[name].check_arguments((), row.arguments)
    except (TypeError, ValueError) as error:
        return str(error)
    return None
