"""Takes the exporter's connections: so many at once, and each for a bounded time.

A connection has some seconds to bring its request, and then some for its answer. While all places are taken, a new
connection gets the place of the oldest that has not brought its request yet: a client that means well brings it at
once. The loop that takes connections keeps these times, and says that the exporter is alive
(tasks/runtime/systemd.py).
"""

import logging
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple
from wsgiref.simple_server import WSGIRequestHandler

from prometheus_client.exposition import ThreadingWSGIServer

from tasks.runtime import systemd

_logger = logging.getLogger(__name__)

# Signs of life in the time after which a silent exporter is restarted.
_SIGNS = 8
# How long a connection waits for a place before it is closed.
_PLACE_SECONDS = 1
# Of connections that were not answered, the log gets one line in this time.
_LINE_SECONDS = 60


class Limits(NamedTuple):
    """How many connections there may be at once, each with a thread; how many seconds one has for its request, and
    then for its answer."""

    connections: int
    request: float
    answer: float


# The threads of the connections and those that ask Redis and PostgreSQL are fewer than the unit may have (TasksMax).
# Questions take up to 16 s of the time for an answer.
LIMITS = Limits(connections=32, request=10, answer=30)


class _Open(NamedTuple):
    """A connection: from where, until when, in seconds of time.monotonic(), and whether its request has come."""

    address: str
    until: float
    has_request: bool = False


class Listener(ThreadingWSGIServer):
    """Listens on an address, of IPv4 or IPv6, or on the first address of a name. Raises OSError if it cannot."""

    request_queue_size = 64

    def __init__(self, address: str, port: int, application: Callable[..., Any], limits: Limits = LIMITS) -> None:
        self._limits, self._places = limits, threading.Semaphore(limits.connections)
        # Without the connections that were hung up.
        self._open: dict[Any, _Open] = {}
        self._lock, self._unanswered, self._next_line = threading.Lock(), 0, 0.0
        self._next_sign = 0.0
        # The family is an attribute of the class to `socketserver`, IPv4 for every address.
        self.address_family, *_, place = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
        super().__init__(place, _Handler)  # type: ignore[arg-type]  # of IPv6: four parts
        self.set_app(application)

    def service_actions(self) -> None:
        """Called by the loop that takes connections, twice a second and after each connection."""
        now = time.monotonic()
        for connection, found in self._open.copy().items():
            if now >= found.until:
                self._hang_up(connection, "did not take its answer" if found.has_request else "brought no request")
        if now >= self._next_sign and (seconds := systemd.watchdog_seconds()):
            self._next_sign = now + seconds / _SIGNS
            systemd.notify_alive()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer a connection in a thread of its own, or close the connection where there is no place."""
        address = str(client_address[0])
        if not self._places.acquire(blocking=False):
            silent = (connection for connection, found in self._open.copy().items() if not found.has_request)
            if (oldest := next(silent, None)) is not None:
                self._hang_up(oldest, "brought no request while others waited")
            if not self._places.acquire(timeout=_PLACE_SECONDS):
                self._note(address, "found no place")
                self.shutdown_request(request)
                return
        self._open[request] = _Open(address, time.monotonic() + self._limits.request)
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started
            self._leave(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """What the thread of a connection does."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._leave(request)

    def take_request(self, connection: Any) -> bool:
        """Note that the request has come. Returns whether it is to be answered: not after the connection's end."""
        with self._lock:
            if found := self._open.get(connection):
                until = time.monotonic() + self._limits.answer
                self._open[connection] = found._replace(until=until, has_request=True)
        return found is not None

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - as socketserver's
        """Called where a connection failed, as by a client that went away."""
        error = sys.exc_info()[1]
        is_ours = not isinstance(error, OSError)
        self._note(str(client_address[0]), f"failed: {type(error).__name__}: {error}", shows_where=is_ours)

    def _hang_up(self, connection: Any, why: str) -> None:
        with self._lock:
            found = self._open.pop(connection, None)
        if found:
            with suppress(OSError):  # it has just ended
                connection.shutdown(socket.SHUT_RDWR)  # its thread reads the end, or cannot write
            self._note(found.address, why)

    def _leave(self, connection: Any) -> None:
        with self._lock:
            self._open.pop(connection, None)
        self._places.release()

    def _note(self, address: str, why: str, *, shows_where: bool = False) -> None:
        with self._lock:
            now = time.monotonic()
            self._unanswered += 1
            count, is_time = self._unanswered, now >= self._next_line
            if is_time:
                self._unanswered, self._next_line = 0, now + _LINE_SECONDS
        if is_time:
            words = "connections without an answer since the last such line: %d; the newest, from %s, %s"
            _logger.warning(words, count, address, why, exc_info=shows_where)


class _Handler(WSGIRequestHandler):
    server: Listener

    def parse_request(self) -> bool:
        """Read the request. Returns whether it is to be answered."""
        return super().parse_request() and self.server.take_request(self.connection)

    def address_string(self) -> str:
        """The address, without asking for its name."""
        return str(self.client_address[0])

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as http.server's
        """Log nothing: a scrape every few seconds would fill the log."""
