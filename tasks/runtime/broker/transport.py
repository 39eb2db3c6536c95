"""kombu's Redis transport, made so that no message is lost between the broker and a worker.

kombu takes a message off its queue with BRPOP and then notes it as delivered. A worker that
is killed, cut off or unplugged between the two takes the message with it (kombu 305, celery
4354); an idle worker whose machine is gone is certain to lose the next message. Here one
script does both at once, and an idle worker waits for a token instead of a message:

    put     message -> queue,  token -> wake:queue                      by whoever publishes
    take    aside or queue -> unacked,  or else delete wake:*           never waits
    wait    wake:* -> nothing                                           until a token comes, or a second has passed

A lost token costs a second, because the worker looks for messages each second anyway. So does a message that comes
without a token: one from another transport, or one that was given back.

A message on a queue that no worker can run (tasks/runtime/broker/envelope.py) is put aside
(tasks/runtime/broker/aside.py).
"""

import json
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from queue import Empty
from time import monotonic, time
from typing import Any, Literal

from celery import Celery
from kombu.log import get_logger
from kombu.transport import redis
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps, loads
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError, OutOfMemoryError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from tasks.engine import shutdown
from tasks.errors import MessageUnreadableError
from tasks.runtime.broker import aside, clock, envelope
from tasks.runtime.broker.deliveries import Deliveries, Message, too_large, unreadable
from tasks.runtime.broker.fanout import Sieve
from tasks.runtime.broker.master import MasterConnection, TlsMasterConnection
from tasks.runtime.broker.queues import is_ours, wake_key
from tasks.runtime.broker.scripts import MAX_MESSAGE_BYTES, TAKE, put, rename_unless
from tasks.settings import get_settings

_logger = get_logger(__name__)

_BINDING_PARTS = 3  # of kombu's tables: routing key, pattern, queue

# After these seconds an answer of Redis counts as lost: Redis itself answers within a second.
_SILENCE_SECONDS, _CLOSING_SECONDS = 5, 2
# A worker that stops does not ask a silent broker again for this long, as it would wait a dozen times while closing.
_NOT_ASKED_SECONDS = 15
# An answer that takes longer is late.
_LATE_SECONDS = 0.5
_END = 2**32  # Unix seconds, in the year 2106
# A connection that was idle for longer may be dead: a fresh one takes milliseconds, waiting for an answer over a dead
# one takes 5 s.
_IDLE_SECONDS = 10


@contextmanager
def broker_client(app: Celery) -> Iterator[Any]:
    """A client of the broker's Redis, out of the application's pool of connections."""
    with app.pool.acquire(block=True) as connection:
        channel = connection.default_channel
        if monotonic() - channel.last_used > _IDLE_SECONDS:
            channel.pool.disconnect(inuse_connections=False)
        try:
            with channel.conn_or_acquire() as client:
                yield client
        finally:
            channel.last_used = monotonic()


class Channel(redis.Channel):  # type: ignore[misc]
    """Puts messages, takes them and waits for them as the module says.

    A channel that consumes messages without acknowledgement (the answers to `inspect`) works as kombu's does.
    """

    Message = Message
    QoS = Deliveries
    is_noted = False  # whether the message being delivered is already noted as delivered
    on_answer: Callable[[], None] | None = None  # called once, after Redis's first answer about messages
    unanswered: aside.Tag | None = None  # of the message that Redis may have given in an answer that was not read
    _in_poll: Any = None  # the connection on which an answer is awaited
    # By which the Sentinels of the settings know the broker; None where Redis is at the address of the URL. Workers
    # answer these options to whoever asks, so the Sentinels themselves, with their password, are not among them.
    master_name: str | None = None
    from_transport_options = (*redis.Channel.from_transport_options, "master_name")
    _pending: Literal["take", "wait", "kombu's"] = "take"  # the command to send next, or waiting for its answer

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # The ids of messages that are aside, and that this worker can run (tasks/runtime/search.py).
        self.wanted: deque[aside.Tag] = deque()
        self._unacknowledged: set[str] = set()  # consumer tags
        self._opened_at = self.last_used = monotonic()
        self._sieve = Sieve()
        super().__init__(*args, **kwargs)

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        if self.master_name is None:
            return super()._connparams(asynchronous)  # type: ignore[no-any-return]
        self.connection_class, self.connection_class_ssl = MasterConnection, TlsMasterConnection
        return {**super()._connparams(asynchronous), "sentinels": get_settings().redis.broker.sentinels}

    def basic_consume(self, queue: str, no_ack: bool, callback: Any, consumer_tag: str, **kwargs: Any) -> Any:
        """Take messages from this queue from now on."""
        if no_ack:
            self._unacknowledged.add(consumer_tag)
        return super().basic_consume(queue, no_ack, callback, consumer_tag, **kwargs)

    def _basic_cancel(self, consumer_tag: str) -> Any:
        self._unacknowledged.discard(consumer_tag)
        return super()._basic_cancel(consumer_tag)

    @contextmanager
    def conn_or_acquire(self, client: Any = None) -> Iterator[Any]:
        """As kombu's, but a worker that stops waits only once for a
        broker that does not answer, not once for each message."""
        if self.connection is None:
            # A message of a connection that is closed by now: all its messages have been given back.
            raise RedisConnectionError("the connection is closed")
        began = monotonic()
        if shutdown.is_requested() and began < Transport.silent_at + _NOT_ASKED_SECONDS:
            raise RedisConnectionError("it is silent")
        try:
            with super().conn_or_acquire(client) as acquired:
                yield acquired
        except RedisTimeoutError:
            Transport.silent_at = monotonic()
            raise
        finally:
            if monotonic() - began > _LATE_SECONDS:
                Transport.late_at = monotonic()

    def is_silent(self) -> bool:
        """Whether the broker has left a question unanswered, on any connection, since this channel was opened."""
        return Transport.silent_at > self._opened_at

    def check_answer(self) -> None:
        """Raises redis.exceptions.ConnectionError where Redis has
        stopped answering, which the event loop does not notice."""
        if self.is_silent() and not shutdown.is_requested():
            raise RedisConnectionError("it does not answer")
        is_late = self._in_poll and monotonic() - self._brpop_sent_at > _SILENCE_SECONDS
        if is_late and not self._is_answered(0) and not shutdown.is_requested():
            raise RedisConnectionError(f"it has not answered for {_SILENCE_SECONDS} s")

    def take_over(self, deliveries: Deliveries) -> None:
        """Take over the messages in hand from a channel whose connection broke."""
        self._qos = deliveries
        deliveries.move_to(self)

    def hang_up(self) -> None:
        """End the question for messages that is open, without reading its answer."""
        if self._in_poll and self._pending != "kombu's":
            if self.unanswered:
                self._is_answered(_CLOSING_SECONDS)  # else Redis might take a message after this worker gave it back
            self._in_poll.disconnect()
            self._in_poll = None

    def close(self) -> None:
        """As kombu's, but waits less long for the last answer.

        A worker that stops leaves its queues for remote control to a slow broker, as a worker that is killed does: it
        would wait for three answers for each.
        """
        if shutdown.is_requested() and monotonic() < Transport.late_at + _NOT_ASKED_SECONDS:
            self.auto_delete_queues.clear()
        self.hang_up()
        if self._in_poll and not self._is_answered(_CLOSING_SECONDS):
            self._in_poll.disconnect()
            self._in_poll = None
        super().close()

    def _is_answered(self, seconds: float) -> bool:
        connected = self._in_poll._sock  # noqa: SLF001
        return connected is None or bool(wait([connected], seconds))

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        if is_ours(queue):
            return
        # A key of another type in the place of these tables would keep every worker from connecting.
        with self.conn_or_acquire() as client:
            for table in (self.keyprefix_queue, self.keyprefix_binding_permanent):
                rename_unless(client, table % exchange, "set")
            rename_unless(client, self.keyprefix_binding_deadlines, "zset")
        try:
            super()._queue_bind(exchange, routing_key, pattern, queue)
        except OutOfMemoryError:
            # Remote control does without the table: a worker that starts with a full Redis consumes and empties it.
            if queue not in self._fanout_queues:
                raise

    def _refresh_bindings(self, queues: list[str]) -> None:
        """As kombu's, but quiet where Redis is full: kombu's tries each second and logs a traceback each time."""
        with suppress(OutOfMemoryError):
            super()._refresh_bindings(queues)

    def _lookup(self, exchange: str, routing_key: str, default: str | None = None) -> Any:
        """Our queues are found by their names, not by a table in Redis, in which somebody could write anything."""
        return [routing_key] if is_ours(routing_key) else super()._lookup(exchange, routing_key, default)

    def _size(self, queue: str) -> int:
        """How many messages wait in the queue. A key that is no list counts as empty; taking from it renames it.

        Raises redis.exceptions.NoPermissionError where the user of Redis may not know.
        """
        with self.conn_or_acquire() as client, client.pipeline(transaction=False) as pipe:
            for priority in self.priority_steps:
                pipe.llen(self._q_for_pri(queue, priority))
            sizes = pipe.execute(raise_on_error=False)
        if refusal := next((size for size in sizes if isinstance(size, NoPermissionError)), None):
            raise refusal
        return sum(size for size in sizes if isinstance(size, int))

    def get_table(self, exchange: str) -> list[tuple[str, ...]]:
        """The bindings of the queues for answers, without entries that are no bindings."""
        return [binding for binding in super().get_table(exchange) if len(binding) == _BINDING_PARTS]

    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        if not is_ours(queue):
            super()._put(queue, message, **kwargs)
            return
        key = self._q_for_pri(queue, self._get_message_priority(message, reverse=False))
        with self.conn_or_acquire() as client:
            clock.to_redis(client, message)
            put(client, key, queue, [dumps(message)], clock.not_before(message))

    def _handle_message(self, client: Any, response: list[Any]) -> dict[str, Any]:
        """As kombu's, without the content of what is neither a command nor an event: kombu passes it over."""
        return self._sieve(super()._handle_message(client, response))

    def _brpop_start(self, timeout: float | None = None) -> None:
        if self._unacknowledged:
            self._pending = "kombu's"
            super()._brpop_start(timeout)
            return
        queues = self._queue_cycle.consume(len(self.active_queues))
        if not queues:
            return
        self._in_poll = self.client.connection
        self._brpop_sent_at = monotonic()
        tokens = [wake_key(queue) for queue in queues]
        if self._pending == "wait":
            self._in_poll.send_command("BRPOP", *tokens, timeout or self.brpop_timeout)
            return
        self._pending = "take"
        self._tag = self.unanswered = self._next_delivery_tag()
        self._looked_in = queues * len(self.priority_steps)
        lists = [self._q_for_pri(queue, priority) for priority in self.priority_steps for queue in queues]
        keys = [self.unacked_key, self.unacked_index_key, *aside.KEYS, *lists, *tokens]
        arguments = self._tag, MAX_MESSAGE_BYTES, self.wanted.popleft() if self.wanted else ""
        self._in_poll.send_command("EVAL", TAKE, len(keys), *keys, *arguments, *map(json.dumps, self._looked_in))

    def _brpop_read(self, **options: Any) -> bool:
        if self._pending == "kombu's":
            self._pending = "take"
            return bool(super()._brpop_read(**options))
        was_waiting, self._pending = self._pending == "wait", "take"
        try:
            connection = self.client.connection
            try:
                taken = self.client.parse_response(connection, "EVAL", **options)
            except self.connection_errors:
                connection.disconnect()
                raise
            self.unanswered = None
            if self.on_answer:
                answered, self.on_answer = self.on_answer, None
                answered()
            if was_waiting:
                raise Empty
            if not taken:
                self._pending = "wait"
                raise Empty
            number, found, *taken_at = taken
            if number < 0:
                _logger.error(
                    "a key of Redis was of another type than it is used as; renamed %s:of-another-type", found
                )
                raise Empty
            now = float(taken_at[0])
            if number:
                self._queue_cycle.rotate(self._looked_in[number - 1])
                self._deliver(found, self._looked_in[number - 1], now)
            else:
                self._deliver(*aside.split(found), now)
            return True
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()

    def _deliver(self, found: Any, queue: Any, now: float) -> None:
        """Hand a message to its consumer.

        `found` is JSON, or the decoded value, or the number of bytes if there are too many.

        `now` is Redis's time, in Unix seconds.
        """
        message: Any = None
        try:
            if isinstance(found, int):
                raise too_large(found)
            message = loads(bytes_to_str(found)) if isinstance(found, bytes | str) else found
            envelope.check_envelope(message)
            clock.shift(message["headers"], time() - now)
            message["due"] = _due_here(message.get("due"), now)
            message["properties"]["delivery_tag"] = self._tag
            self.decode_body(message["body"], message["properties"].get("body_encoding"))
        except Exception as error:
            size = found if isinstance(found, int) else len(found or ())
            self.qos.put_aside(self._tag, unreadable(error), message, size)
            raise Empty from error
        self.is_noted = True
        try:
            self.connection._deliver(message, queue)  # noqa: SLF001
        finally:
            self.is_noted = False

    def given_back(self, entry: bytes) -> tuple[str, float, str]:
        """The list to which a message is given back, before which moment it is not due, and the message as JSON, read
        from its entry in the table of delivered messages.

        Raises whatever the content of an odd entry leads to.
        """
        message, exchange, routing_key = loads(bytes_to_str(entry))
        envelope.check_envelope(message)
        message["headers"]["redelivered"] = True
        message["properties"]["delivery_info"]["redelivered"] = True
        [queue] = self._lookup(exchange, routing_key)
        key = self._q_for_pri(queue, self._get_message_priority(message, reverse=False))
        if not is_ours(queue):
            with self.conn_or_acquire() as client:
                if bytes_to_str(client.type(key)) not in ("list", "none"):  # such as the table itself
                    raise MessageUnreadableError("its entry names no queue")
        message.pop("due", None)  # it gets another
        return key, clock.not_before(message), dumps(message)


def _due_here(due: object, now: float) -> float | None:
    """Since when a message is due, in seconds of time.monotonic(); None where that is not noted as a time.

    `due` and `now` are by Redis's clock.
    """
    if not isinstance(due, int | float) or not 0 <= due < _END:
        return None
    return monotonic() - (now - due)


class Transport(redis.Transport):  # type: ignore[misc]
    """kombu's Redis transport with our channel, for which errors of a failover are errors of the connection.

    A primary that becomes a replica ends a worker's waiting with an error (UNBLOCKED) and refuses its writes
    (READONLY). kombu takes these for errors of one command, and the worker ends or waits for ever. As errors of the
    connection, they make the worker connect anew until it finds the new primary.
    """

    Channel = Channel
    # When the broker last left a question unanswered, in seconds of time.monotonic(). All channels of a process share
    # this, as a worker has only one broker.
    silent_at = float("-inf")
    late_at = float("-inf")  # when the broker last answered late
    connection_errors = (*redis.Transport.connection_errors, ResponseError)
