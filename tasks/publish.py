"""Queues one task many times.

`.delay()` makes up each message anew and waits for the broker each time. Here Celery makes one message, kombu writes
it again with other arguments and ids, and many go to the broker at once. What arrives is what `.delay()` would have
sent; only Celery's signals of publishing are not sent for each.
"""

from collections.abc import Sequence
from typing import Any

from celery import Task
from celery.utils import uuid
from kombu.exceptions import BatchPublishError, OperationalError

from tasks.redaction import redact_arguments

# So many messages are held in memory and written at once.
_MESSAGES_PER_WRITE = 500


def publish_many(task: Task, calls: Sequence[Sequence[Any]], **options: Any) -> list[str]:
    """Queue `task` once for each tuple of positional arguments, with the options of `apply_async`; the ids.

    Raises kombu.exceptions.OperationalError when the broker does not take them; some or all may have arrived.
    """
    if not calls:
        return []
    with task.app.producer_or_acquire() as producer, producer.connection._reraise_as_library_errors():  # noqa: SLF001
        message = _record(task, calls[0], producer, options)
        for queue in message.pop("declare"):
            producer.maybe_declare(queue)  # once, not with each message
        try:
            with producer.batch(_MESSAGES_PER_WRITE):
                return [_publish(producer, task, message, arguments) for arguments in calls]
        except BatchPublishError as error:
            raise OperationalError(str(error)) from error


class _Recorder:
    """Stands in for a producer, and keeps what Celery would have published."""

    def __init__(self, producer: Any) -> None:
        self.connection = producer.connection
        self.options: dict[str, Any] = {}

    def publish(self, body: Any, **options: Any) -> None:
        self.options = {"body": body, **options, "retry": False}


def _record(task: Task, arguments: Sequence[Any], producer: Any, options: dict[str, Any]) -> dict[str, Any]:
    recorder = _Recorder(producer)
    task.apply_async(tuple(arguments), producer=recorder, **options)
    return recorder.options


def _publish(producer: Any, task: Task, message: dict[str, Any], arguments: Sequence[Any]) -> str:
    task_id = uuid()
    _, kwargs, embedded = message["body"]
    shown, _ = redact_arguments(task.run, arguments, {})
    own = {"argsrepr": repr(shown)}
    headers = {**message["headers"], **own, "id": task_id, "root_id": task_id}
    body = (tuple(arguments), kwargs, embedded)
    producer.publish(**{**message, **own, "body": body, "headers": headers, "correlation_id": task_id})
    return str(task_id)
