"""The events that a worker sends about itself (heartbeats, for Flower) never keep it from its work.

Celery sends events from the worker's event loop, and tries again until the broker answers: meanwhile the worker
neither notices that it is cut off, nor reports it, nor stops. Here an event is tried once, and rarely where Redis is
slow. A lost event does not matter, as the next heartbeat follows two seconds later.
"""

from typing import Any

from celery.app import events
from celery.events import dispatcher

from tasks.runtime.broker.seldom import Seldom


class Dispatcher(dispatcher.EventDispatcher):  # type: ignore[misc]  # celery has no types
    """Celery's dispatcher, which here tries to send an event once."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._send_seldom = Seldom(super().send)

    def send(self, type: str, *args: Any, **kwargs: Any) -> None:  # noqa: A002 - as Celery's
        """Send the event."""
        (self._send_seldom if type.startswith("worker-") else super().send)(type, *args, **kwargs)

    def _publish(self, event: Any, producer: Any, routing_key: str, *_: Any, **__: Any) -> None:
        super()._publish(event, producer, routing_key)


class Events(events.Events):  # type: ignore[misc]
    """Celery's events, sent by the dispatcher above."""

    dispatcher_cls = "tasks.runtime.heartbeat:Dispatcher"
