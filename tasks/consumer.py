"""Takes only what this release can run. Celery's consumer logs the rest with all that is in it, or dies of it.

tasks/broker.py has looked at what is around the arguments; here they are held against the task. A task that this
release does not have, or arguments that it does not know, may be of a release that is being deployed: they are put
aside, and a worker that knows them takes them from there. So of two workers of different releases the old one neither
spins nor loses any.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

from celery.worker import consumer
from kombu.exceptions import DecodeError

from tasks import aside
from tasks.admission import admit, admit_raw
from tasks.errors import EmailError, MessageUnreadableError
from tasks.redaction import redact_arguments
from tasks.settings import get_settings

# How often a worker looks for what others put aside and it knows.
_LOOK_SECONDS = 10


class Consumer(consumer.Consumer):  # type: ignore[misc]  # celery has no types
    """Celery's, which sees no message that it would stumble over."""

    def connect(self) -> Any:
        """Celery's, which leaves its connection open where the first thing that is asked of Redis is refused."""
        connection = self.connection_for_read(heartbeat=self.amqheartbeat)
        try:
            if self.hub:
                connection.transport.register_with_event_loop(connection.connection, self.hub)
        except BaseException:
            connection.release()
            raise
        return connection

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        """What is called with each message."""
        handle = super().create_task_handler(*args, **kwargs)

        def admit_and_handle(message: Any) -> None:
            try:
                self._admit(message)
            except EmailError as error:
                message.put_aside(error)
            else:
                handle(message)

        return admit_and_handle

    def register_with_event_loop(self, hub: Any) -> None:
        """Called when it begins to consume, after each connect."""
        super().register_with_event_loop(hub)
        self._look_aside()
        hub.call_repeatedly(_LOOK_SECONDS, self._look_aside)

    def _admit(self, message: Any) -> None:
        """Raises TaskUnknownError and MessageUnreadableError."""
        try:
            body = message.payload
        except (DecodeError, RecursionError) as error:
            raise MessageUnreadableError(type(error).__name__) from error
        task, args, kwargs = admit(self.app, message.headers["task"], body)
        # Whoever published it may not have hidden what is somebody's mail.
        shown = redact_arguments(task.run, args, kwargs)
        message.headers["argsrepr"], message.headers["kwargsrepr"] = map(repr, shown)

    def _look_aside(self) -> None:
        """Have the channel take what others put aside and this worker can run."""
        hours, queues = get_settings().worker.unknown_task_hours, self.app.amqp.queues.consume_from
        wanted: deque[str] = deque()
        with self.connection.default_channel.conn_or_acquire() as client:
            for tag in aside.waiting(client, hours):
                try:
                    _, message, queue = aside.find(client, tag)
                    admit_raw(self.app, message)
                except (EmailError, KeyError):
                    continue  # it waits for another release, or another worker was quicker
                if queue in queues:
                    wanted.append(tag)
        self.connection.default_channel.wanted = wanted
