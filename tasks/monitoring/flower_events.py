"""How Flower hears what the workers do, and what it tells systemd of that: started means that its pages answer.

Flower waits twice as long after each failure to hear the broker, hours after a long night, and waits for ever where
the broker went silent. Here it asks every two seconds whether the broker still answers, and connects anew each second
where it does not. Whoever starts Flower with this application gets it so.
"""

import logging
import sys
import time
from collections.abc import Callable
from typing import Any

from celery import Celery
from celery.events.receiver import EventReceiver
from celery.signals import import_modules

from tasks.runtime import systemd

_logger = logging.getLogger(__name__)

_LOOK_SECONDS, _RETRY_SECONDS = 2, 1


def connect() -> None:
    """Have the Flower that this process may be about to run hear its broker like this."""
    import_modules.connect(_replace)


class _Broker:
    """Whether the broker is heard. systemd is told all along, the log once."""

    is_heard: bool | None = None

    def answers(self) -> None:
        if self.is_heard:
            return
        if self.is_heard is False:
            _logger.warning("Flower: the broker answers again")
        systemd.notify("STATUS=Hears the workers")
        self.is_heard = True

    def fails(self, error: Exception) -> None:
        systemd.notify_away("Hears nothing", error)
        if self.is_heard is not False:
            _logger.warning("Flower: the broker does not answer, trying again every %s s: %s", _RETRY_SECONDS, error)
        self.is_heard = False


class _Receiver(EventReceiver):  # type: ignore[misc]  # celery has no types
    """Hears the workers until the broker fails, and raises what the broker failed with."""

    connect_max_retries = 0

    def __init__(self, connection: Any, app: Celery, on_event: Callable[[Any], None], broker: _Broker) -> None:
        super().__init__(connection, {"*": on_event}, app=app)
        self._broker = broker
        self._next_look = 0.0  # in seconds of time.monotonic()

    def on_consume_ready(self, connection: Any, channel: Any, consumers: Any, **kwargs: Any) -> None:
        self._subscribed = channel
        super().on_consume_ready(connection, channel, consumers, **kwargs)

    def on_iteration(self) -> None:
        """Called before each event is waited for, for a second at most."""
        if time.monotonic() < self._next_look:
            return
        try:
            with self._subscribed.conn_or_acquire() as client:
                client.ping()
        except Exception as error:
            # Before the connection is closed, which takes seconds where the broker is silent.
            self._broker.fails(error)
            raise
        self._next_look = time.monotonic() + _LOOK_SECONDS
        self._broker.answers()


def _replace(**_: Any) -> None:
    # Called while Flower is being made, before it makes its own.
    flower: Any = sys.modules.get("flower.app")
    if flower is not None and flower.Events.__module__ != __name__:
        flower.Events = _make_events()


def _make_events() -> Any:
    """The class in place of Flower's. Made here: only Flower needs its packages."""
    from flower.events import Events

    class HeardEvents(Events):  # type: ignore[misc, unused-ignore]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._broker = _Broker()

        def start(self) -> None:
            super().start()
            # Once its event loop turns, which serves the pages.
            self.io_loop.add_callback(systemd.notify, "READY=1")

        def run(self) -> None:
            while True:
                try:
                    with self.capp.connection_for_read() as connection:
                        _Receiver(connection, self.capp, self.on_event, self._broker).capture()
                except Exception as error:  # whatever it is, it is said, and tried again
                    self._broker.fails(error)
                time.sleep(_RETRY_SECONDS)

        async def on_enable_events(self) -> None:
            if self._broker.is_heard:
                await super().on_enable_events()

    return HeardEvents
