"""The thread in which beat waits for notifications of PostgreSQL (LISTEN), and calls what a channel wakes.

A notification may be lost, with the connection that waits for it or because a pooler of transactions lets none
through. So each handler is called without one, too, every `sweep_seconds`, and whenever the connection is new. What a
handler raises costs nobody else anything: it is called again later. Beat's schedule never waits for this thread.
"""

import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from celery import Celery
from celery.utils.log import get_logger
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from tasks.errors import BrokerUnavailableError, StorageUnavailableError
from tasks.storage.session import listening, wait_for_notifications

logger = get_logger("celery.beat")

# After an error: at first, and at most.
_RETRY_SECONDS, _MAX_RETRY_SECONDS = 0.5, 5.0
# How long a stop of beat waits for a handler at work. What it leaves undone, another beat does, or this one later.
_STOP_SECONDS = 5
_PASSING = (StorageUnavailableError, BrokerUnavailableError, OperationalError, RedisError, OSError)


class Handler(NamedTuple):
    """What a notification on `channel` wakes.

    `handle` does a part of what there is to do, in a second or so, and returns whether there may be more.
    """

    channel: str
    handle: Callable[[Celery], bool]
    sweep_seconds: float


class _Turn:
    """When a handler is called next, and whether it failed the last time."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.due = 0.0
        self.failures = 0

    def notify(self) -> None:
        """Call it now, unless it fails: then it has its time."""
        if not self.failures:
            self.due = 0.0

    def take(self, app: Celery) -> None:
        """Call the handler, and say when it is called next."""
        try:
            has_more = self.handler.handle(app)
        except Exception as error:
            if not self.failures:
                known = isinstance(error, _PASSING)
                logger.warning(
                    "beat: %s failed, trying again: %s",
                    self.handler.channel,
                    error,
                    exc_info=None if known else error,
                )
            self.failures += 1
            self.due = time.monotonic() + _pause(self.failures)
            return
        if self.failures:
            logger.warning("beat: %s works again", self.handler.channel)
        self.failures = 0
        self.due = 0.0 if has_more else time.monotonic() + self.handler.sweep_seconds


class Listener:
    """Calls the handlers, in a thread of its own, until it is stopped."""

    def __init__(self, app: Celery, handlers: Sequence[Handler]) -> None:
        self._app = app
        self._turns = [_Turn(handler) for handler in handlers]
        self._is_stopped = threading.Event()
        # A byte here ends a wait for notifications.
        self._stopping, self._stop = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="notified", daemon=True)

    def start(self) -> None:
        """Begin to listen. Nobody waits for PostgreSQL."""
        self._thread.start()

    def is_alive(self) -> bool:
        """Whether its thread runs."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Call no handler any more, and wait a little for the one at work."""
        self._is_stopped.set()
        self._stop.send(b".")
        self._thread.join(_STOP_SECONDS)

    def _run(self) -> None:
        failures = 0
        while not self._is_stopped.is_set():
            try:
                with listening(*(turn.handler.channel for turn in self._turns)) as connection:
                    if failures:
                        logger.warning("beat: PostgreSQL answers again, and is listened to")
                    failures = 0
                    self._serve(connection)
            except Exception as error:
                if not failures:
                    _warn(error, "beat: PostgreSQL is not listened to, trying again: %s", error)
                failures += 1
                self._is_stopped.wait(_pause(failures))

    def _serve(self, connection: Any) -> None:
        for turn in self._turns:
            turn.notify()
        while not self._is_stopped.is_set():
            seconds = max(0.0, min(turn.due for turn in self._turns) - time.monotonic())
            notified = wait_for_notifications(connection, seconds, self._stopping)
            for turn in self._turns:
                if turn.handler.channel in notified:
                    turn.notify()
                if turn.due <= time.monotonic() and not self._is_stopped.is_set():
                    turn.take(self._app)


def _pause(failures: int) -> float:
    return min(_RETRY_SECONDS * 2.0 ** min(failures - 1, 10), _MAX_RETRY_SECONDS)


def _warn(error: Exception, *words: object) -> None:
    """Log these words, and where the error came from unless it is one that passes."""
    logger.warning(*words, exc_info=None if isinstance(error, _PASSING) else error)
