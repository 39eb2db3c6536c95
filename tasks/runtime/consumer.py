"""A worker's consumer, which takes only messages that this release can run.

Celery's consumer logs other messages with all their content, or dies of them.

tasks/runtime/broker/transport.py has checked everything in a message except the arguments;
here the arguments are compared with what the task takes. A task or an argument that this
release does not know may belong to a release that is being deployed: the message is put aside,
and a worker that knows the task takes it from there. So while two releases run side by side, a
worker of the older release loses no message and does not take the same message over and over.

When a connection breaks, the worker keeps the messages in hand (tasks/runtime/broker/deliveries.py): running tasks go
on, tasks that wait for a process or for their time go on waiting, and they are acknowledged over the next connection.
"""

import time
import warnings
from collections.abc import Callable
from typing import Any

from celery.exceptions import CPendingDeprecationWarning
from celery.utils.log import get_logger
from celery.worker import consumer
from celery.worker.state import maybe_shutdown
from celery.worker.state import revoked as revoked_tasks
from kombu import Queue
from kombu.common import ignore_errors
from kombu.exceptions import DecodeError

from tasks.engine import shutdown
from tasks.errors import EmailError, MessageUnreadableError
from tasks.log_fields import Field, logged_with
from tasks.runtime import systemd
from tasks.runtime.admission import admit
from tasks.runtime.broker.queues import is_own, own_queue
from tasks.runtime.broker.seldom import Seldom
from tasks.runtime.clocks import Watch
from tasks.runtime.log.tasks import fields_of
from tasks.runtime.redaction import redact_arguments
from tasks.runtime.revocations import revocations, take_over
from tasks.runtime.search import Search
from tasks.settings import get_settings

_outages = get_logger(f"{__name__}.outages")  # tasks/runtime/broker/outage.py
_logger = get_logger(__name__)

# How often a worker looks at the clocks, at a part of the messages that other workers put aside, and at what
# operators have revoked.
_CLOCKS_SECONDS, _SEARCH_SECONDS, _REVOCATIONS_SECONDS = 5, 1, 1
# How long events are collected before they are sent.
_EVENTS_SECONDS = 0.5
# The pause between two tries to connect or to get an answer.
# It is short, so that a broker that is back is noticed soon.
_RETRY_SECONDS = 1


class Consumer(consumer.Consumer):  # type: ignore[misc]  # celery has no types
    """Celery's consumer, which here gets only messages that it
    can handle, and reports its state to the service manager."""

    turned_at = float("-inf")  # when the event loop last turned, in seconds of time.monotonic()
    _is_answered = False  # whether Redis has answered over the present connection
    _deliveries: Any = None  # the messages in hand (broker/deliveries.py); None before the first connection
    _connects_anew = False
    _sends_events_soon = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._clocks = Watch()
        self._search = Search(self.app)
        self._revoked: set[str] = set()  # what operators have revoked, as last seen
        own = own_queue(self.hostname)
        self.app.amqp.queues.select_add(Queue(own, routing_key=own))
        self._address = self.conninfo.as_uri()  # kept, because asking a connection for its address may open files

    @property
    def is_consuming(self) -> bool:
        """Whether the worker takes messages: the broker answers, and it is not being stopped."""
        return self._is_answered and not self._connects_anew and not shutdown.is_requested()

    @property
    def in_hand(self) -> int:
        """How many messages the worker has in hand."""
        return self._deliveries.in_hand if self._deliveries else 0

    def ensure_connected(self, connection: Any) -> Any:
        """Connect, however long that takes.

        Unlike Celery's, the pauses do not grow, so that a Redis that is back is found soon.
        """
        connection.ensure_connection(
            lambda error, _: self._say_unreachable(error),
            interval_start=_RETRY_SECONDS,
            interval_max=_RETRY_SECONDS,
            callback=maybe_shutdown,
        )
        self.first_connection_attempt = False
        return connection

    def on_connection_error_before_connected(self, error: Exception) -> None:
        """As Celery's, and tell the service manager."""
        self._say_away(error)
        self._connects_anew = True
        super().on_connection_error_before_connected(error)
        time.sleep(_RETRY_SECONDS)

    def on_connection_error_after_connected(self, error: Exception) -> None:
        """As Celery's, but keep the messages in hand, and tell the service manager."""
        self._say_away(error)
        self._connects_anew = True
        self._keep_deliveries()
        if self.qos:  # its count includes the tasks that wait for their time
            self.initial_prefetch_count = self.qos.value
        with warnings.catch_warnings():
            # Celery warns that Celery 6 will end running tasks by default; our configuration says not to.
            warnings.simplefilter("ignore", CPendingDeprecationWarning)
            super().on_connection_error_after_connected(error)
        if not self._is_answered:  # else a Redis that accepts logins and refuses all else is asked without a pause
            time.sleep(_RETRY_SECONDS)
        self._is_answered = False

    def connect(self) -> Any:
        """As Celery's, but closes the connection if Redis refuses the first command. Celery's leaves it open."""
        connection = self.connection_for_read(heartbeat=self.amqheartbeat)
        try:
            channel = connection.default_channel
            if self._deliveries:
                channel.take_over(self._deliveries)
            self._deliveries = channel.qos
            # Comes before the search for messages that were not acknowledged in time, which would find these.
            self._deliveries.tell_what_is_owed()
            if self.hub:
                connection.transport.register_with_event_loop(connection.connection, self.hub)
        except BaseException:
            self._keep_deliveries()
            connection.release()
            raise
        return connection

    def on_close(self) -> None:
        """As Celery's when the worker stops: tasks that no process has begun are forgotten.

        Not so before a new connection.
        """
        if self._connects_anew:
            self._connects_anew = False
            self.pool.finish_writes()
        else:
            super().on_close()

    def stop(self) -> None:
        """As Celery's, but tell the service manager, which otherwise would wait for signs of life. A stop may have
        been asked for by remote control."""
        systemd.notify("STOPPING=1")
        super().stop()

    def shutdown(self) -> None:
        """As Celery's, but first tells the broker what became of the messages in hand: of all that a worker that
        stops has to say, only this matters, and Celery's says it last."""
        if self.connection:
            ignore_errors(self, self._deliveries.hang_up)
            ignore_errors(self, self._deliveries.restore_unacked_once)
            # kombu's does nothing where no message is in hand, but acknowledgements may still be owed.
            ignore_errors(self, self._deliveries.tell_what_is_owed)
        if self._is_answered:
            self._send_events()
        super().shutdown()

    def on_send_event_buffered(self) -> None:
        """As Celery's, but sends the events of half a second in one message."""
        if self.hub and not self._sends_events_soon:
            self._sends_events_soon = True
            self.hub.call_later(_EVENTS_SECONDS, self._send_events)

    def call_soon_ack(self, settle: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        """Acknowledge or give back at once: a call that waits
        for its turn is lost if an error ends the event loop."""
        settle(*args, **kwargs)

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        """The function that is called with each message."""
        handle = super().create_task_handler(*args, **kwargs)

        def admit_and_handle(message: Any) -> None:
            try:
                try:
                    fields = self._admit(message)
                except EmailError as error:
                    message.put_aside(error)
                else:
                    with logged_with(**fields):
                        handle(message)
            except Exception:
                message.give_back_later()
                raise

        return admit_and_handle

    def register_with_event_loop(self, hub: Any) -> None:
        """Called after each connect, when the consumer begins to consume."""
        super().register_with_event_loop(hub)
        channel = self.connection.default_channel
        channel.on_answer = self._say_consuming
        self.pool.read_results()
        self._sends_events_soon = False  # a new connection has forgotten all timers
        hub.call_repeatedly(1, self._turn, channel)
        hub.call_repeatedly(_RETRY_SECONDS, self._deliveries.tell_what_is_owed)
        self._look_at_the_clocks()
        self._look_aside()
        self._look_at_revocations()
        hub.call_repeatedly(_CLOCKS_SECONDS, Seldom(self._look_at_the_clocks))
        hub.call_repeatedly(_SEARCH_SECONDS, Seldom(self._look_aside))
        hub.call_repeatedly(_REVOCATIONS_SECONDS, Seldom(self._look_at_revocations))

    def _turn(self, channel: Any) -> None:
        self.turned_at = time.monotonic()
        channel.check_answer()

    def _send_events(self) -> None:
        self._sends_events_soon = False
        if self.event_dispatcher:
            self.event_dispatcher.flush()

    def _keep_deliveries(self) -> None:
        """Have the present channel give no messages back when it is closed."""
        if self._deliveries:
            self._deliveries.channel.do_restore = False

    def _say_unreachable(self, error: Exception) -> None:
        self._say_away(error)
        said = str(error).rstrip(".")
        _outages.error("Cannot connect to %s: %s. It is tried every second.", self._address, said)

    def _say_away(self, error: Exception) -> None:
        systemd.notify_alive()  # there is no event loop that would say so
        systemd.notify_away("Does not consume", error)

    def _say_consuming(self) -> None:
        self._is_answered = True
        if self.pool is None:  # the worker is being stopped
            return
        queues = ", ".join(queue for queue in self.app.amqp.queues.consume_from if not is_own(queue))
        consumes = f"Consumes {queues} with {self.pool.num_processes} processes"
        systemd.notify("READY=1", f"STATUS={'; '.join(filter(None, (consumes, self._clocks.words)))}")

    def _admit(self, message: Any) -> dict[Field, object]:
        """Check the arguments of a message. Returns what the lines of its task say.

        Raises TaskUnknownError and MessageUnreadableError.
        """
        try:
            body = message.payload
        except (DecodeError, RecursionError) as error:
            raise MessageUnreadableError(type(error).__name__) from error
        task, args, kwargs = admit(self.app, message.headers["task"], body)
        # The publisher of the message may not have redacted the arguments.
        shown = redact_arguments(task.run, args, kwargs)
        message.headers["argsrepr"], message.headers["kwargsrepr"] = map(repr, shown)
        return fields_of(task, message.headers["id"], args, kwargs)

    def _look_at_the_clocks(self) -> None:
        """Report it if the clock of this host, of Redis or of PostgreSQL is off."""
        if shutdown.is_requested():
            return
        with self.connection.default_channel.conn_or_acquire() as client:
            has_changed = self._clocks.look(client)
        if has_changed and self._is_answered:
            self._say_consuming()

    def _look_at_revocations(self) -> None:
        """Learn which tasks operators have revoked, and which they let run again."""
        if shutdown.is_requested():
            return
        channel = self.connection.default_channel
        channel.check_answer()  # another question to a silent broker would only delay what is said of it
        with channel.conn_or_acquire() as client:
            self._revoked = take_over(revoked_tasks, self._revoked, revocations(client))

    def _look_aside(self) -> None:
        """Have the channel take messages that were put aside and that this worker can run."""
        channel = self.connection.default_channel
        if shutdown.is_requested() or channel.wanted:
            return
        hours, queues = get_settings().worker.unknown_task_hours, self.app.amqp.queues.consume_from
        with channel.conn_or_acquire() as client:
            channel.wanted = self._search.look(client, hours, queues)
