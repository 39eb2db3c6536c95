"""The events that a worker sends about itself and its tasks, for Flower, never keep it from its work.

Workers send events from their start on, whether or not Flower listens: Flower knows each task and how it ended.

Celery sends events from the worker's event loop, tries again until the broker answers, and keeps each event that was
not sent: meanwhile the worker neither notices that it is cut off, nor reports it, nor stops. Here an event is tried
once, and rarely where Redis is slow. The newest events of tasks are kept until Redis takes them; heartbeats are not
kept, as the next one follows two seconds later.
"""

from contextlib import suppress
from time import monotonic
from typing import Any

from celery.app import events
from celery.events import dispatcher

from tasks.runtime.broker.seldom import Seldom
from tasks.runtime.broker.transport import Transport
from tasks.runtime.redaction import redact_text

# How many events of tasks are kept: about three for each task.
_MAX_KEPT = 1000
_OF_TASKS = "task"
# For so long after a question that Redis left unanswered no event is sent. The event loop notices within a second.
_SILENT_SECONDS = 5
# Fields of events that may repeat what a mail server said.
_WORDS = ("exception", "traceback", "result")


class Dispatcher(dispatcher.EventDispatcher):  # type: ignore[misc]  # celery has no types
    """Celery's dispatcher, which here tries to send an event once."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Set, Celery's would keep all events that are not sent, and send each on its own.
        super().__init__(*args, **{**kwargs, "buffer_while_offline": False})
        self._send_seldom, self._flush_seldom = Seldom(super().send), Seldom(super().flush)

    def send(self, type: str, *args: Any, **fields: Any) -> None:  # noqa: A002 - as Celery's
        """Send an event of the worker; keep an event of a task, which is sent with others in a moment."""
        if type.startswith(f"{_OF_TASKS}-"):
            del self.kept[:-_MAX_KEPT]
            words = {name: redact_text(fields[name]) for name in _WORDS if isinstance(fields.get(name), str)}
            self._try(super().send, type, *args, **fields | words)
        else:
            self._ask(self._send_seldom, type, *args, **fields)
            self.flush()  # what Redis did not take before

    def flush(self, *_: Any, **__: Any) -> None:
        """Send the kept events of tasks, in one message."""
        if self.kept:
            self._ask(self._flush_seldom)

    @property
    def kept(self) -> list[Any]:
        """The events of tasks that are not sent yet."""
        return self._group_buffer[_OF_TASKS]  # type: ignore[no-any-return]

    def extend_buffer(self, other: "Dispatcher") -> None:
        """Take over the kept events of the dispatcher of the connection before."""
        self.kept[:0] = other.kept

    def _ask(self, send: Any, *args: Any, **fields: Any) -> None:
        # Else it would wait for another time-out before the event loop can notice that the worker is cut off.
        if monotonic() >= Transport.silent_at + _SILENT_SECONDS:
            self._try(send, *args, **fields)

    def _try(self, send: Any, *args: Any, **fields: Any) -> None:
        with suppress(Exception):  # of any kind: the worker's consumer notices and reports a broker that fails
            send(*args, **fields)

    def _publish(self, event: Any, producer: Any, routing_key: str, *_: Any, **__: Any) -> None:
        super()._publish(event, producer, routing_key)


class Events(events.Events):  # type: ignore[misc]
    """Celery's events, sent by the dispatcher above."""

    dispatcher_cls = "tasks.runtime.heartbeat:Dispatcher"
