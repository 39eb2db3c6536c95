"""Queues one task many times.

`.delay()` builds each message anew and waits for the broker each time. Here Celery and kombu build one message, for a
transport that connects to nothing; all other messages are copies with other arguments and ids, and many go to the
broker at once. The broker gets the same messages as from `.delay()`; only Celery's signals for publishing are not
sent for each message.
"""

import json
from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from celery import Task
from kombu.utils.json import dumps
from uuid_utils import uuid4

from tasks.runtime.broker import transport
from tasks.runtime.broker.clock import not_before, to_redis
from tasks.runtime.broker.failover import through_failover
from tasks.runtime.broker.scripts import put, put_once
from tasks.runtime.redaction import redact_arguments

# How many messages are held in memory and written at once.
_MESSAGES_PER_WRITE = 500


class _Nobody:
    """The client of a channel that connects to nothing."""

    def ping(self) -> bool:
        """Kombu asks each new channel's client."""
        return True


class _KeepingChannel(transport.Channel):
    """A channel that does not queue a message, but keeps the message, its queue and the key of the queue's list."""

    kept: tuple[str, str, dict[str, Any]]

    def _create_client(self, asynchronous: bool = False) -> _Nobody:  # noqa: ARG002  # as kombu calls it
        return _Nobody()

    def _size(self, queue: str) -> int:  # noqa: ARG002  # as kombu calls it
        return 0

    def _put(self, queue: str, message: dict[str, Any], **_: Any) -> None:
        key = self._q_for_pri(queue, self._get_message_priority(message, reverse=False))
        self.kept = key, queue, message


class _KeepingTransport(transport.Transport):
    Channel = _KeepingChannel


def publish_many(
    task: Task,
    calls: Sequence[Sequence[Any]],
    ids: Sequence[str] | None = None,
    *,
    once_before: float | None = None,
    **options: Any,
) -> Sequence[str]:
    """Queue `task` once for each tuple of positional arguments, with the options of `apply_async`. Returns the ids of
    the tasks, which are new where no ids are given.

    With `once_before` an id that was queued like this already is left out, and nothing is queued after this moment,
    in Unix seconds of Redis's clock (tasks/runtime/broker/scripts.py).

    Raises kombu.exceptions.OperationalError when the broker did not confirm the messages; some or all may be queued.
    """
    if not calls:
        return []
    ids = ids or [str(uuid4()) for _ in calls]
    with (
        task.app.connection_for_write(transport=_KeepingTransport) as connection,
        connection._reraise_as_library_errors(),  # noqa: SLF001
        task.app.amqp.Producer(connection) as producer,
    ):
        task.apply_async(tuple(calls[0]), producer=producer, retry=False, **options)
        key, queue, built = producer.channel.kept
        with transport.broker_client(task.app) as client:
            to_redis(client, built)
            message = json.loads(dumps(built))
            for first in range(0, len(calls), _MESSAGES_PER_WRITE):
                part = slice(first, first + _MESSAGES_PER_WRITE)
                messages = _copies(task, message, calls[part], ids[part])
                if once_before is None:
                    write = partial(put, client, key, queue, list(messages), not_before(message))
                else:
                    write = partial(put_once, client, key, queue, ids[part], list(messages), once_before)
                through_failover(write)
    return ids


def _copies(task: Task, message: dict[str, Any], calls: Sequence[Sequence[Any]], ids: Sequence[str]) -> Iterator[str]:
    """A copy of the message for each call, with its arguments and its id."""
    template = _template(message)
    _, *rest = json.loads(b64decode(message["body"]))
    after_arguments = f", {dumps(rest)[1:]}"
    run = task.run
    for arguments, task_id in zip(calls, ids, strict=True):
        shown, _ = redact_arguments(run, arguments, {})
        yield template % {
            "body": b64encode(f"[{dumps(arguments)}{after_arguments}".encode()).decode(),
            "id": task_id,
            "shown": dumps(repr(shown))[1:-1],
            "tag": uuid4(),
        }


def _template(message: dict[str, Any]) -> str:
    """The message as JSON, with a placeholder for each value that differs between the copies."""
    places = {name: str(uuid4()) for name in ("body", "id", "shown", "tag")}
    own_id, shown = places["id"], {"argsrepr": places["shown"]}
    headers = {**message["headers"], "id": own_id, "root_id": own_id, **shown}
    properties = {**message["properties"], "correlation_id": own_id, "delivery_tag": places["tag"], **shown}
    own = {"body": places["body"], "headers": headers, "properties": properties}
    text: str = dumps({**message, **own}).replace("%", "%%")
    for name, place in places.items():
        text = text.replace(place, f"%({name})s")
    return text
