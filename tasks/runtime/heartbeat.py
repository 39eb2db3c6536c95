"""What a worker tells of itself (its heartbeat, for Flower) never keeps it from its work.

Celery tells it from the worker's event loop, and tries for as long as the broker does not answer: meanwhile the
worker neither notices that it is cut off, nor says so, nor stops. Here it is tried once, and seldom where Redis is
slow. An event that is lost is followed by the next heartbeat, two seconds later.
"""

from typing import Any

from celery.app import events
from celery.events import dispatcher

from tasks.runtime.broker.seldom import Seldom


class Dispatcher(dispatcher.EventDispatcher):  # type: ignore[misc]  # celery has no types
    """Tries once."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._beat = Seldom(super().send)

    def send(self, type: str, *args: Any, **kwargs: Any) -> None:  # noqa: A002 - as Celery's
        """Tell it."""
        (self._beat if type == "worker-heartbeat" else super().send)(type, *args, **kwargs)

    def _publish(self, event: Any, producer: Any, routing_key: str, *_: Any, **__: Any) -> None:
        super()._publish(event, producer, routing_key)


class Events(events.Events):  # type: ignore[misc]
    """Celery's, with such a dispatcher."""

    dispatcher_cls = "tasks.runtime.heartbeat:Dispatcher"
