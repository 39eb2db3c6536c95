"""How Flower receives the workers' events, and reports its
state to systemd: it counts as started when its pages answer.

Flower itself doubles its pause after each failed try to reach the broker, up to hours after
a long outage, and waits for ever if the broker stops answering without closing the
connection. Here Flower asks each second whether the broker still answers, and if not,
connects anew each second. This holds for every Flower that is started with this application.

The event loop that serves the pages says that Flower is alive, while the thread that receives the events goes on.
"""

import logging
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from celery import Celery
from celery.events.receiver import EventReceiver
from celery.signals import import_modules

from tasks.runtime import systemd

_logger = logging.getLogger(__name__)

_LOOK_SECONDS, _RETRY_SECONDS = 1, 1
_SIGNS = 8  # of life in the time after which a silent Flower is restarted
# How long the thread that receives the events may be silent at least: to close a connection that does not answer
# takes several seconds.
_PATIENCE_SECONDS = 15


def connect() -> None:
    """Have the Flower that this process may be about to run use these events."""
    import_modules.connect(_replace)


class Broker:
    """Whether the broker answers. Each look is reported to systemd; the log gets one line for each change."""

    is_heard: bool | None = None
    looked = 0.0  # when the last look was, in seconds of time.monotonic()

    def answers(self) -> None:
        self.looked = time.monotonic()
        if self.is_heard:
            return
        if self.is_heard is False:
            _logger.warning("Flower: the broker answers again")
        systemd.notify("STATUS=Hears the workers")
        self.is_heard = True

    def fails(self, error: Exception) -> None:
        self.looked = time.monotonic()
        systemd.notify_away("Hears nothing", error)
        if self.is_heard is not False:
            _logger.warning("Flower: the broker does not answer, trying again every %s s: %s", _RETRY_SECONDS, error)
        self.is_heard = False


def _say_alive(broker: Broker, seconds: float) -> None:
    """Called by the event loop that serves the pages."""
    silence = time.monotonic() - broker.looked
    if silence < max(seconds, _PATIENCE_SECONDS):
        systemd.notify_alive()
    else:
        _logger.critical("Flower has not looked for events for %.0f s: it has itself restarted", silence)
        systemd.notify_stuck()


class Receiver(EventReceiver):  # type: ignore[misc]  # celery has no types
    """Receives events until the broker fails, and raises the broker's error."""

    connect_max_retries = 0

    def __init__(self, connection: Any, app: Celery, on_event: Callable[[Any], None], broker: Broker) -> None:
        super().__init__(connection, {"*": on_event}, app=app)
        self._broker = broker
        self._next_look = 0.0  # when to ask the broker again, in seconds of time.monotonic()

    def on_consume_ready(self, connection: Any, channel: Any, consumers: Any, **kwargs: Any) -> None:
        self._subscribed = channel
        super().on_consume_ready(connection, channel, consumers, **kwargs)

    def on_iteration(self) -> None:
        """Called before each wait for an event, which lasts a second at most."""
        if time.monotonic() < self._next_look:
            return
        try:
            # kombu asks questions of its own, and raises no error where one of them is not answered.
            self._subscribed.check_answer()
            with self._subscribed.conn_or_acquire() as client:
                client.ping()
        except Exception as error:
            # Report first: closing the connection takes seconds if the broker does not answer.
            self._broker.fails(error)
            raise
        self._next_look = time.monotonic() + _LOOK_SECONDS
        self._broker.answers()


def _replace(**_: Any) -> None:
    # Called while Flower is being set up, before it makes its own events.
    flower: Any = sys.modules.get("flower.app")
    if flower is not None and flower.Events.__module__ != __name__:
        flower.Events = _make_events()


def _make_events() -> Any:
    """The class that replaces Flower's. It is made in this function because only Flower needs the packages."""
    from flower.events import Events
    from tornado.ioloop import PeriodicCallback

    class HeardEvents(Events):  # type: ignore[misc, unused-ignore]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._broker = Broker()

        def start(self) -> None:
            super().start()
            # Run when the event loop runs, which serves the pages.
            self.io_loop.add_callback(systemd.notify, "READY=1")
            if seconds := systemd.watchdog_seconds():
                self._broker.looked = time.monotonic()
                PeriodicCallback(partial(_say_alive, self._broker, seconds), seconds / _SIGNS * 1000).start()

        def run(self) -> None:
            while True:
                try:
                    with self.capp.connection_for_read() as connection:
                        Receiver(connection, self.capp, self.on_event, self._broker).capture()
                except Exception as error:  # of any kind: report it, and try again
                    self._broker.fails(error)
                time.sleep(_RETRY_SECONDS)

        async def on_enable_events(self) -> None:
            if self._broker.is_heard:
                await super().on_enable_events()

    return HeardEvents
