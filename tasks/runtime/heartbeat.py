"""What a worker tells of itself (its heartbeat, for Flower) never keeps it from its work.

Celery tells it from the worker's event loop, and tries for as long as the broker does not answer: meanwhile the
worker neither notices that it is cut off, nor says so, nor stops. Here it is tried once. An event that is lost is
followed by the next heartbeat, two seconds later.
"""

from typing import Any

from celery.app import events
from celery.events import dispatcher


class Dispatcher(dispatcher.EventDispatcher):  # type: ignore[misc]  # celery has no types
    """Tries once."""

    def _publish(self, event: Any, producer: Any, routing_key: str, *_: Any, **__: Any) -> None:
        super()._publish(event, producer, routing_key)


class Events(events.Events):  # type: ignore[misc]
    """Celery's, with such a dispatcher."""

    dispatcher_cls = "tasks.runtime.heartbeat:Dispatcher"
