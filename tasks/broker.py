"""kombu's Redis transport, made so that no message is lost between the broker and a worker.

kombu takes a message off its queue with BRPOP and then notes it as delivered. A worker that is killed, cut off or
unplugged between the two takes the message with it (kombu 305, celery 4354); of an idle worker whose machine is gone
that is the next message for certain. Here one script does both at once, and what a worker waits for is no message:

    put     message -> queue,  token -> wake:queue                      by whoever publishes
    take    queue -> unacked,  or where there is none, delete wake:*    never waits
    wait    wake:* -> nothing                                           until a token comes, or a second has passed

A token that is lost costs a second, as does a message that comes without one: from another transport, or given back.
"""

import json
from collections.abc import Iterable
from queue import Empty
from time import monotonic, time
from typing import Any, Literal

from kombu.log import get_logger
from kombu.transport import redis, virtual
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps, loads
from redis.exceptions import ResponseError

from tasks.queues import QUEUES

_logger = get_logger(__name__)

# KEYS: the queue, its tokens. ARGV: the messages. While there are tokens nobody waits, so more would wake nobody.
_PUT = """
for _, message in ipairs(ARGV) do
  redis.call('LPUSH', KEYS[1], message)
  if redis.call('LLEN', KEYS[2]) < redis.call('LLEN', KEYS[1]) then
    redis.call('LPUSH', KEYS[2], '')
  end
end
"""

# KEYS: kombu's table of delivered messages, its index, as many lists as there are queues and priorities, in the order
# in which to look, and the tokens. ARGV: the tag, the time, for each list its queue as JSON. What the table gets is
# what kombu would put there for a message to the default exchange, which gives it back to this queue. The message
# comes first: Redis then lets the others follow even when it is full.
_TAKE = """
local lists = #ARGV - 2
for i = 1, lists do
  local message = redis.call('RPOP', KEYS[2 + i])
  if message then
    redis.call('HSET', KEYS[1], ARGV[1], '[' .. message .. ', "", ' .. ARGV[2 + i] .. ']')
    redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
    return {i, message}
  end
end
for i = 3 + lists, #KEYS do
  redis.call('DEL', KEYS[i])
end
return false
"""

# KEYS: the table, its index. ARGV: the tag. Not MULTI, of which a full Redis 7.0 refuses every command.
_FORGET = """
redis.call('ZREM', KEYS[2], ARGV[1])
return redis.call('HDEL', KEYS[1], ARGV[1])
"""

# KEYS: the table, its index, what is put aside. ARGV: the tag.
_PUT_ASIDE = """
local entry = redis.call('HGET', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
if entry then redis.call('LPUSH', KEYS[3], entry) end
"""

# What nobody can read is put aside here, for a person to look at.
UNREADABLE = "metabuilder:unreadable"


def put(client: Any, key: str, queue: str, messages: Iterable[str]) -> None:
    """Append these messages, as JSON, to the list at `key`, and wake a worker for each; all or none."""
    client.eval(_PUT, 2, key, wake_key(queue), *messages)


def wake_key(queue: str) -> str:
    """The list of the tokens for which the idle workers of a queue wait."""
    return f"metabuilder:wake:{queue}"


class _Message(virtual.Message):  # type: ignore[misc]  # kombu has no types
    """One of which the broker must know what became of it, or the worker connects anew.

    kombu logs that the broker did not take it and counts the message among those that the worker has in hand until it
    comes back after the visibility timeout and beyond, and a worker that may have no more of them waits for ever.
    """

    def ack_log_error(self, _logger: Any, _errors: Any, multiple: bool = False) -> None:
        """It is dealt with."""
        self.ack(multiple=multiple)

    def reject_log_error(self, _logger: Any, _errors: Any, requeue: bool = False) -> None:
        """Give it back, or throw it away."""
        self.reject(requeue=requeue)


class _QoS(redis.QoS):  # type: ignore[misc]
    """The messages that a worker has in hand, and the broker's notes of them."""

    def append(self, message: Any, delivery_tag: str) -> None:
        """Count it, and note it where taking it has not done that."""
        if self.channel.is_noted:
            virtual.QoS.append(self, message, delivery_tag)
        else:
            super().append(message, delivery_tag)

    def restore_by_tag(self, tag: str, client: Any = None, leftmost: bool = False) -> None:
        """Give it back to its queue; aside if that cannot be read."""
        try:
            super().restore_by_tag(tag, client, leftmost)
        except ValueError as error:
            self.put_aside(bytes_to_str(tag), error)

    def put_aside(self, tag: str, error: Exception) -> None:
        """Where it stops nobody."""
        with self.channel.conn_or_acquire() as client:
            client.eval(_PUT_ASIDE, 3, self.unacked_key, self.unacked_index_key, UNREADABLE, tag)
        # Of the error its type only: its words may be the message's.
        name = type(error).__name__
        _logger.error("a message that cannot be read (%s) was put aside, into the list %s of Redis", name, UNREADABLE)

    def _remove_from_indices(self, delivery_tag: str, pipe: Any = None) -> Any:
        if pipe:  # a transaction with more in it
            return super()._remove_from_indices(delivery_tag, pipe)
        with self.channel.conn_or_acquire() as client:
            keys = self.unacked_key, self.unacked_index_key
            return client.pipeline(transaction=False).eval(_FORGET, 2, *keys, delivery_tag)


class Channel(redis.Channel):  # type: ignore[misc]
    """Puts, takes and waits as above.

    While it consumes what needs no acknowledgement (the answers to `inspect`), it does as kombu does.
    """

    Message = _Message
    QoS = _QoS
    is_noted = False  # the message at hand
    _pending: Literal["take", "wait", "kombu's"] = "take"  # the command to send next, or whose answer is to come

    def __init__(self, *args: Any, **kwargs: Any) -> None:
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

    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        if queue not in QUEUES:  # such as those of answers
            super()._put(queue, message, **kwargs)
            return
        key = self._q_for_pri(queue, self._get_message_priority(message, reverse=False))
        with self.conn_or_acquire() as client:
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
        keys = [self.unacked_key, self.unacked_index_key, *lists, *tokens]
        self._in_poll.send_command(
            "EVAL", _TAKE, len(keys), *keys, self._tag, time(), *map(json.dumps, self._looked_in)
        )

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
            if was_waiting:
                raise Empty
            if not taken:
                self._pending = "wait"
                raise Empty
            self._deliver(self._looked_in[taken[0] - 1], taken[1])
            return True
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()

    def _deliver(self, queue: str, text: bytes | str) -> None:
        self._queue_cycle.rotate(queue)
        try:
            message = loads(bytes_to_str(text))
            message["properties"]["delivery_tag"] = self._tag
            self.Message(message, channel=self)
        except Exception as error:
            self.qos.put_aside(self._tag, error)
            raise Empty from error
        self.is_noted = True
        try:
            self.connection._deliver(message, queue)  # noqa: SLF001
        finally:
            self.is_noted = False


class Transport(redis.Transport):  # type: ignore[misc]
    """When a primary becomes a replica, it ends a worker's waiting with an error (UNBLOCKED) and refuses its writes
    (READONLY). kombu takes these for errors of one command, and the worker ends or waits for ever. They are errors of
    the connection: the worker is to connect anew, as long as it takes, and finds the primary.
    """

    Channel = Channel
    connection_errors = (*redis.Transport.connection_errors, ResponseError)
