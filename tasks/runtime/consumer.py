"""Takes only what this release can run. Celery's consumer logs the rest with all that is in it, or dies of it.

tasks/runtime/broker/transport.py has looked at what is around the arguments; here they are held against the task. A
task that this release does not have, or arguments that it does not know, may be of a release that is being deployed:
they are put aside, and a worker that knows them takes them from there. So of two workers of different releases the
old one neither spins nor loses any.

A connection that breaks changes nothing about what the worker has in hand (tasks/runtime/broker/deliveries.py):
processes go on with what they were given, what waits for them or for its time goes on waiting, and the next
connection acknowledges it.
"""

import time
import warnings
from collections import deque
from collections.abc import Callable
from typing import Any

from celery.exceptions import CPendingDeprecationWarning
from celery.utils.log import get_logger
from celery.worker import consumer
from celery.worker.state import maybe_shutdown
from kombu.exceptions import DecodeError

from tasks.engine import shutdown
from tasks.errors import EmailError, MessageUnreadableError
from tasks.runtime import systemd
from tasks.runtime.admission import admit, admit_raw
from tasks.runtime.broker import aside
from tasks.runtime.broker.seldom import Seldom
from tasks.runtime.clocks import Watch
from tasks.runtime.redaction import redact_arguments
from tasks.settings import get_settings

_outages = get_logger(f"{__name__}.outages")  # tasks/runtime/broker/outage.py
_logger = get_logger(__name__)

# How often a worker looks for what others put aside and it knows.
_LOOK_SECONDS = 5
# Between two tries to connect, or to be answered: what is back is noticed soon.
_RETRY_SECONDS = 1


class Consumer(consumer.Consumer):  # type: ignore[misc]  # celery has no types
    """Celery's, which sees no message that it would stumble over, and says in what state it is."""

    _is_answered = False  # over the connection of now
    _deliveries: Any = None  # what it has in hand (tasks/runtime/broker/deliveries.py), once it was connected
    _connects_anew = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._clocks = Watch()
        self._address = self.conninfo.as_uri()  # to ask a connection for it may open files

    def ensure_connected(self, connection: Any) -> Any:
        """Connect, however long that takes. Celery waits longer and longer, so that it is late when Redis is back."""
        connection.ensure_connection(
            lambda error, _: self._say_unreachable(error),
            interval_start=_RETRY_SECONDS,
            interval_max=_RETRY_SECONDS,
            callback=maybe_shutdown,
        )
        self.first_connection_attempt = False
        return connection

    def on_connection_error_before_connected(self, error: Exception) -> None:
        """Celery's, and the service manager is told."""
        self._say_away(error)
        self._connects_anew = True
        super().on_connection_error_before_connected(error)
        time.sleep(_RETRY_SECONDS)

    def on_connection_error_after_connected(self, error: Exception) -> None:
        """Celery's, which gives back nothing here, and the service manager is told."""
        self._say_away(error)
        self._connects_anew = True
        self._keep_deliveries()
        if self.qos:  # it has a place for each task that waits for its time
            self.initial_prefetch_count = self.qos.value
        with warnings.catch_warnings():
            # Celery 6 will by default end the tasks at work, which is set here not to be done.
            warnings.simplefilter("ignore", CPendingDeprecationWarning)
            super().on_connection_error_after_connected(error)
        if not self._is_answered:  # what lets in and refuses all else would be asked without a pause
            time.sleep(_RETRY_SECONDS)
        self._is_answered = False

    def connect(self) -> Any:
        """Celery's, which leaves its connection open where the first thing that is asked of Redis is refused."""
        connection = self.connection_for_read(heartbeat=self.amqheartbeat)
        try:
            channel = connection.default_channel
            if self._deliveries:
                channel.take_over(self._deliveries)
            self._deliveries = channel.qos
            # Before anything is looked for that was not acknowledged in time.
            self._deliveries.tell_what_is_owed()
            if self.hub:
                connection.transport.register_with_event_loop(connection.connection, self.hub)
        except BaseException:
            self._keep_deliveries()
            connection.release()
            raise
        return connection

    def on_close(self) -> None:
        """Celery's, which forgets what no process has begun, where this stops and is not about to connect anew."""
        if self._connects_anew:
            self._connects_anew = False
            self.pool.finish_writes()
        else:
            super().on_close()

    def call_soon_ack(self, settle: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        """Acknowledge or give back at once: what waits for a turn of the event loop is lost if an error ends it."""
        settle(*args, **kwargs)

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        """What is called with each message."""
        handle = super().create_task_handler(*args, **kwargs)

        def admit_and_handle(message: Any) -> None:
            try:
                try:
                    self._admit(message)
                except EmailError as error:
                    message.put_aside(error)
                else:
                    handle(message)
            except Exception:
                message.give_back_later()
                raise

        return admit_and_handle

    def register_with_event_loop(self, hub: Any) -> None:
        """Called when it begins to consume, after each connect."""
        super().register_with_event_loop(hub)
        channel = self.connection.default_channel
        channel.on_answer = self._say_consuming
        self.pool.read_results()
        hub.call_repeatedly(1, channel.check_answer)
        hub.call_repeatedly(_RETRY_SECONDS, self._deliveries.tell_what_is_owed)
        self._look_at_the_clocks()
        self._look_aside()
        hub.call_repeatedly(_LOOK_SECONDS, Seldom(self._look_at_the_clocks))
        hub.call_repeatedly(_LOOK_SECONDS, Seldom(self._look_aside))

    def _keep_deliveries(self) -> None:
        """The channel of now gives nothing back when it is closed."""
        if self._deliveries:
            self._deliveries.channel.do_restore = False

    def _say_unreachable(self, error: Exception) -> None:
        self._say_away(error)
        said = str(error).rstrip(".")
        _outages.error("Cannot connect to %s: %s. It is tried every second.", self._address, said)

    def _say_away(self, error: Exception) -> None:
        systemd.notify_away("Does not consume", error)

    def _say_consuming(self) -> None:
        self._is_answered = True
        if self.pool is None:  # it is being stopped
            return
        queues = ", ".join(self.app.amqp.queues.consume_from)
        consumes = f"Consumes {queues} with {self.pool.num_processes} processes"
        systemd.notify("READY=1", f"STATUS={'; '.join(filter(None, (consumes, self._clocks.words)))}")

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

    def _look_at_the_clocks(self) -> None:
        """Say it where the clock of this host, of Redis's or of PostgreSQL's is off."""
        with self.connection.default_channel.conn_or_acquire() as client:
            has_changed = self._clocks.look(client)
        if has_changed and self._is_answered:
            self._say_consuming()

    def _look_aside(self) -> None:
        """Have the channel take what others put aside and this worker can run."""
        if shutdown.is_requested():
            return
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
