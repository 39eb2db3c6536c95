"""kombu's Redis transport, made so that no message is lost between the broker and a worker.

kombu takes a message off its queue with BRPOP and then notes it as delivered. A worker that is killed, cut off or
unplugged between the two takes the message with it (kombu 305, celery 4354); of an idle worker whose machine is gone
that is the next message for certain. Here one script does both at once, and what a worker waits for is no message:

    put     message -> queue,  token -> wake:queue                      by whoever publishes
    take    aside or queue -> unacked,  or else delete wake:*           never waits
    wait    wake:* -> nothing                                           until a token comes, or a second has passed

A token that is lost costs a second, as does a message that comes without one: from another transport, or given back.

Whatever else is found on a queue than what a worker can run (tasks/envelope.py) is put aside (tasks/aside.py).
"""

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from queue import Empty
from time import monotonic, time
from typing import Any, Literal

from celery import Celery
from kombu.log import get_logger
from kombu.transport import redis, virtual
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps, loads
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from tasks import aside, clock, drain, envelope
from tasks.errors import EmailError, MessageUnreadableError
from tasks.queues import QUEUES, wake_key

_logger = get_logger(__name__)
# What is said of an outage as long as it lasts (tasks/monitoring/outage.py).
_outages = get_logger(f"{__name__}.outages")

_BINDING_PARTS = 3  # of kombu's tables: routing key, pattern, queue
_NEVER_EXPIRES = -1  # what Redis answers to TTL

# KEYS: the queue, its tokens. ARGV: the messages. While there are tokens nobody waits, so more would wake nobody.
_PUT = """
for _, message in ipairs(ARGV) do
  redis.call('LPUSH', KEYS[1], message)
  local tokens = redis.pcall('LLEN', KEYS[2])
  if tonumber(tokens) and tokens < redis.call('LLEN', KEYS[1]) then
    redis.call('LPUSH', KEYS[2], '')
  end
end
"""

# KEYS: kombu's table of delivered messages, its index, the three of tasks/aside.py, as many lists as there are queues
# and priorities, in the order in which to look, and the tokens. ARGV: the tag, the most bytes that a worker can take,
# the id of a message that is aside and comes first, for each list its queue as JSON. What the table gets is what
# kombu would put there for a message to the default exchange, which gives it back to this queue. What removes
# something comes first: Redis then lets the others follow even when it is full. A key that holds something of another
# type than it should is renamed, as long as nothing has been taken. Returns the number of the list, the message and
# the time.
_TAKE = """
for i, type in ipairs({'hash', 'zset', 'hash', 'hash', 'zset'}) do
  local found = redis.call('TYPE', KEYS[i]).ok
  if found ~= type and found ~= 'none' then
    redis.call('RENAME', KEYS[i], KEYS[i] .. ':of-another-type')
    return {-1, KEYS[i]}
  end
end
local time = redis.call('TIME')
local now = time[1] .. string.format('.%06d', time[2])
local function note(entry)
  redis.call('HSET', KEYS[1], ARGV[1], entry)
  redis.call('ZADD', KEYS[2], now, ARGV[1])
end
local aside = ARGV[3] ~= '' and redis.call('HGET', KEYS[3], ARGV[3])
if aside then
  redis.call('HDEL', KEYS[3], ARGV[3])
  redis.call('HDEL', KEYS[4], ARGV[3])
  redis.call('ZREM', KEYS[5], ARGV[3])
  note(aside)
  return {0, aside, now}
end
local lists = #ARGV - 3
for i = 1, lists do
  local message = redis.pcall('RPOP', KEYS[5 + i])
  if type(message) == 'table' then
    redis.call('RENAME', KEYS[5 + i], KEYS[5 + i] .. ':of-another-type')
    return {-1, KEYS[5 + i]}
  end
  if message then
    note('[' .. message .. ', "", ' .. ARGV[3 + i] .. ']')
    if #message > tonumber(ARGV[2]) then return {i, #message, now} end
    return {i, message, now}
  end
end
for i = 6 + lists, #KEYS do
  redis.call('DEL', KEYS[i])
end
return false
"""

# KEYS: the table, its index. ARGV: the tag. Not MULTI, of which a full Redis 7.0 refuses every command.
_FORGET = """
redis.call('ZREM', KEYS[2], ARGV[1])
return redis.call('HDEL', KEYS[1], ARGV[1])
"""

# KEYS: the index of delivered messages. What is noted as taken at a time to come was taken while a clock was ahead,
# and would be held for too long: it counts as taken now. Returns the time.
_TAKEN_BY_NOW = """
local time = redis.call('TIME')
local now = time[1] .. string.format('.%06d', time[2])
for _, tag in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf')) do
  redis.call('ZADD', KEYS[1], now, tag)
end
return now
"""

# Bytes. A message with more of them is none of ours: mail travels by its id, and what is sent has a limit of its own.
LARGEST_MESSAGE = 128 * 1024 * 1024
# An answer that is longer in coming than this will not come: Redis itself answers after a second at the latest.
_SILENCE_SECONDS, _CLOSING_SECONDS = 5, 2
# A worker that stops does not ask a silent broker again for so long: it has a dozen things to close.
_NOT_ASKED_SECONDS = 15


@contextmanager
def broker_client(app: Celery) -> Iterator[Any]:
    """A client of the broker's Redis, out of the application's pool of connections."""
    with app.pool.acquire(block=True) as connection, connection.default_channel.conn_or_acquire() as client:
        yield client


def put(client: Any, key: str, queue: str, messages: Iterable[str]) -> None:
    """Append these messages, as JSON, to the list at `key`, and wake a worker for each; all or none.

    Raises ValueError where one is larger than a worker takes.
    """
    messages = list(messages)
    if (size := max(map(len, messages), default=0)) > LARGEST_MESSAGE:
        raise ValueError(
            f"the arguments are too large: a message of {size:,} bytes, and {LARGEST_MESSAGE:,} is the most"
        )
    client.eval(_PUT, 2, key, wake_key(queue), *messages)


class _Message(virtual.Message):  # type: ignore[misc]  # kombu has no types
    """One of which the broker must know what became of it, or the worker connects anew.

    kombu logs that the broker did not take it and counts the message among those that the worker has in hand until it
    comes back after the visibility timeout and beyond, and a worker that may have no more of them waits for ever.
    """

    def ack_log_error(self, _logger: Any, _errors: Any, multiple: bool = False) -> None:
        """It is dealt with."""
        try:
            self.ack(multiple=multiple)
        except self.channel.connection_errors as error:
            if not drain.is_asked():
                raise
            _outages.warning("the broker is not told that a task is done, which will come back: %s", error)

    def reject_log_error(self, _logger: Any, _errors: Any, requeue: bool = False) -> None:
        """Give it back, or throw it away."""
        self.reject(requeue=requeue)

    def put_aside(self, error: EmailError) -> None:
        """It is nothing for a worker of this release."""
        self.channel.qos.put_aside(self.delivery_tag, error, self._raw, len(self.body or ""))
        virtual.QoS.ack(self.channel.qos, self.delivery_tag)
        self._state = "REJECTED"


class _QoS(redis.QoS):  # type: ignore[misc]
    """The messages that a worker has in hand, and the broker's notes of them."""

    def append(self, message: Any, delivery_tag: str) -> None:
        """Count it, and note it where taking it has not done that."""
        if self.channel.is_noted:
            virtual.QoS.append(self, message, delivery_tag)
        else:
            super().append(message, delivery_tag)

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        """Give back what others took and did not finish in time, if there is room for it."""
        with self.channel.conn_or_acquire() as client:
            if client.ttl(self.unacked_mutex_key) == _NEVER_EXPIRES:
                client.delete(self.unacked_mutex_key)  # nobody's lock: those of workers end by themselves
            if bytes_to_str(client.type(self.unacked_index_key)) not in ("zset", "none"):
                client.rename(self.unacked_index_key, f"{self.unacked_index_key}:of-another-type")
            # kombu holds what Redis's clock wrote against that of this host.
            ahead = time() - float(client.eval(_TAKEN_BY_NOW, 1, self.unacked_index_key))
            self.visibility_timeout = self.channel.visibility_timeout + ahead
        try:
            super().restore_visible(*args, **kwargs)
        except OutOfMemoryError:
            _outages.warning("Redis is full: what other workers left unfinished is not given back yet")

    def restore_unacked(self, client: Any = None) -> None:
        """Give back what is in hand.

        Where closing broke off and is begun anew, the transport is gone: others find what is unfinished after the
        visibility timeout.
        """
        if self.channel.connection.client is None:
            self._delivered.clear()
        else:
            super().restore_unacked(client)

    def restore_by_tag(self, tag: str, client: Any = None, leftmost: bool = False) -> None:
        """Give it back to its queue; aside if no worker could take it from there."""
        try:
            super().restore_by_tag(tag, client, leftmost)
        except (*self.channel.connection_errors, *Transport.channel_errors):
            raise
        except Exception as error:
            self.put_aside(bytes_to_str(tag), _unreadable(error))

    def put_aside(self, tag: str, error: EmailError, message: object = None, size: int = 0) -> None:
        """Keep what was delivered under this tag where it stops nobody."""
        with self.channel.conn_or_acquire() as client:
            tables = self.unacked_key, self.unacked_index_key
            note = aside.put(client, tables, tag, error, message, size)
        # Who may write a message may write anything into it: of that, only a name and an id that are plain words.
        _logger.error("a message was put aside as %s: task %s[%s]: %s", tag, note.task_name, note.task_id, error)

    def ack(self, delivery_tag: str) -> None:
        """Forget it."""
        with self.channel.conn_or_acquire() as client:
            client.eval(_FORGET, 2, self.unacked_key, self.unacked_index_key, delivery_tag)
        virtual.QoS.ack(self, delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Give it back, or forget it."""
        if requeue:
            super().reject(delivery_tag, requeue)
        else:
            self.ack(delivery_tag)


def _unreadable(error: Exception) -> EmailError:
    """Of an error its type only, as its words may be the message's, unless it is one of ours."""
    return error if isinstance(error, EmailError) else MessageUnreadableError(type(error).__name__)


class Channel(redis.Channel):  # type: ignore[misc]
    """Puts, takes and waits as above.

    While it consumes what needs no acknowledgement (the answers to `inspect`), it does as kombu does.
    """

    Message = _Message
    QoS = _QoS
    is_noted = False  # the message at hand
    on_answer: Callable[[], None] | None = None  # called once, when Redis has answered what it was asked for messages
    _in_poll: Any = None  # the connection on which an answer is awaited
    _pending: Literal["take", "wait", "kombu's"] = "take"  # the command to send next, or whose answer is to come

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # The ids of messages that are aside, and that this worker can run (tasks/consumer.py).
        self.wanted: deque[str] = deque()
        self._unacknowledged: set[str] = set()  # consumer tags
        super().__init__(*args, **kwargs)

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
        """As kombu's. A worker that stops waits once for a broker that is silent, and not for each message again."""
        if self.connection is None:
            # What was taken over a connection that is closed by now; its messages have been given back.
            raise RedisConnectionError("the connection is closed")
        if drain.is_asked() and monotonic() < Transport.silent_until:
            raise RedisConnectionError("it is silent")
        try:
            with super().conn_or_acquire(client) as acquired:
                yield acquired
        except RedisTimeoutError:
            Transport.silent_until = monotonic() + _NOT_ASKED_SECONDS
            raise

    def check_answer(self) -> None:
        """Raises redis.exceptions.ConnectionError where Redis went silent: of that no event loop is told."""
        is_late = self._in_poll and monotonic() - self._brpop_sent_at > _SILENCE_SECONDS
        if is_late and not self._is_answered(0) and not drain.is_asked():
            raise RedisConnectionError(f"it has not answered for {_SILENCE_SECONDS} s")

    def close(self) -> None:
        """As kombu's, which waits longer for the last answer. A message in that is noted, and comes back."""
        if self._in_poll and not self._is_answered(_CLOSING_SECONDS):
            self._in_poll.disconnect()
            self._in_poll = None
        super().close()

    def _is_answered(self, seconds: float) -> bool:
        connected = self._in_poll._sock  # noqa: SLF001
        return connected is None or bool(wait([connected], seconds))

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        if queue not in QUEUES:
            super()._queue_bind(exchange, routing_key, pattern, queue)

    def _lookup(self, exchange: str, routing_key: str, default: str | None = None) -> Any:
        """Ours go by their names, without a table in Redis that could hold anything."""
        return [routing_key] if routing_key in QUEUES else super()._lookup(exchange, routing_key, default)

    def _size(self, queue: str) -> int:
        """How many messages wait; a list that is none, which taking from it mends, holds none."""
        with self.conn_or_acquire() as client, client.pipeline(transaction=False) as pipe:
            for priority in self.priority_steps:
                pipe.llen(self._q_for_pri(queue, priority))
            return sum(size for size in pipe.execute(raise_on_error=False) if isinstance(size, int))

    def get_table(self, exchange: str) -> list[tuple[str, ...]]:
        """The bindings of queues of answers, without what is none."""
        return [binding for binding in super().get_table(exchange) if len(binding) == _BINDING_PARTS]

    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        if queue not in QUEUES:  # such as those of answers
            super()._put(queue, message, **kwargs)
            return
        key = self._q_for_pri(queue, self._get_message_priority(message, reverse=False))
        with self.conn_or_acquire() as client:
            clock.to_redis(client, message)
            put(client, key, queue, [dumps(message)])

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
        self._tag = self._next_delivery_tag()
        self._looked_in = queues * len(self.priority_steps)
        lists = [self._q_for_pri(queue, priority) for priority in self.priority_steps for queue in queues]
        keys = [self.unacked_key, self.unacked_index_key, *aside.KEYS, *lists, *tokens]
        arguments = self._tag, LARGEST_MESSAGE, self.wanted.popleft() if self.wanted else ""
        self._in_poll.send_command("EVAL", _TAKE, len(keys), *keys, *arguments, *map(json.dumps, self._looked_in))

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
            ahead = time() - float(taken_at[0])
            if number:
                self._queue_cycle.rotate(self._looked_in[number - 1])
                self._deliver(found, self._looked_in[number - 1], ahead)
            else:
                self._deliver(*aside.split(found), ahead)
            return True
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()

    def _deliver(self, found: Any, queue: Any, ahead: float) -> None:
        """Hand over a message: JSON, or what JSON stands for, or the number of its bytes where they are too many.

        `ahead` is how many seconds the clock of this host is ahead of Redis's.
        """
        message: Any = None
        try:
            if isinstance(found, int):
                raise MessageUnreadableError(f"{found} bytes are too many")
            message = loads(bytes_to_str(found)) if isinstance(found, bytes | str) else found
            envelope.check_envelope(message)
            clock.shift(message["headers"], ahead)
            message["properties"]["delivery_tag"] = self._tag
            self.decode_body(message["body"], message["properties"].get("body_encoding"))
        except Exception as error:
            size = found if isinstance(found, int) else len(found or ())
            self.qos.put_aside(self._tag, _unreadable(error), message, size)
            raise Empty from error
        self.is_noted = True
        try:
            self.connection._deliver(message, queue)  # noqa: SLF001
        finally:
            self.is_noted = False

    def _do_restore_message(
        self, payload: Any, exchange: Any, routing_key: Any, pipe: Any, leftmost: bool = False
    ) -> None:
        """kombu's logs what it cannot give back, all of it, and throws it away."""
        envelope.check_envelope(payload)
        super()._do_restore_message(payload, exchange, routing_key, pipe, leftmost)


class Transport(redis.Transport):  # type: ignore[misc]
    """When a primary becomes a replica, it ends a worker's waiting with an error (UNBLOCKED) and refuses its writes
    (READONLY). kombu takes these for errors of one command, and the worker ends or waits for ever. They are errors of
    the connection: the worker is to connect anew, as long as it takes, and finds the primary.
    """

    Channel = Channel
    # The broker, as far as any channel that asked it knows: all connections of a worker are to one. In seconds of
    # time.monotonic().
    silent_until = 0.0
    connection_errors = (*redis.Transport.connection_errors, ResponseError)
