"""The messages that a worker has in hand (taken and not finished), and what the broker is still to be told of them.

Celery and kombu tie messages in hand to the connection over which they came. When that connection breaks, Celery
gives all of these messages back, also those whose task is running, and forgets an acknowledgement that failed; so
tasks are done twice. But the broker knows a message by a tag that holds on any connection. So here a new channel
takes over the deliveries of the channel before it (tasks/runtime/consumer.py), and an acknowledgement or a return
that the broker could not be told is owed until the broker is told.

    taken --> in hand --> settled: forgotten (done), or given back
                             |  ^
              cannot be told v  | told each second, and over a new connection
                             owed

Messages that a dead worker had in hand or owed are delivered again after the visibility timeout.
"""

from collections.abc import Mapping, Sequence
from threading import RLock
from time import time
from typing import Any, Literal

from kombu.log import get_logger
from kombu.transport import redis, virtual
from redis.exceptions import OutOfMemoryError, ResponseError

from tasks.engine import shutdown
from tasks.errors import EmailError, MessageUnreadableError
from tasks.runtime.broker import aside
from tasks.runtime.broker.scripts import GIVE_BACK, MAX_ENTRY_BYTES, SETTLE, TAKEN_BY_NOW, rename_unless
from tasks.runtime.broker.seldom import Seldom

_logger = get_logger(__name__)
# Lines of this logger are thinned out while the broker is away (tasks/runtime/broker/outage.py).
_outages = get_logger(f"{__name__}.outages")

# The broker deletes the message, or gives it back to the end or to the front of its queue.
Settlement = Literal["done", "last", "first"]
# An entry of the broker's table of delivered messages, or the number of its bytes if they are too many; None where
# there is no such entry.
Entry = bytes | int | None

# Bytes of messages that are given back at once: meanwhile they take several times as much memory, here and in Redis.
_MAX_AT_ONCE = 32 * 1024 * 1024
_NEVER_EXPIRES = -1  # Redis's answer to TTL for a key without an expiry


class Message(virtual.Message):  # type: ignore[misc]  # kombu has no types
    """A message whose acknowledgement or return reaches the broker: if this connection breaks, over a later one."""

    @property
    def due(self) -> float | None:
        """Since when the task is due, in seconds of time.monotonic(); None where the message does not say so."""
        return self._raw.get("due")  # type: ignore[no-any-return]

    def ack_log_error(self, _logger: Any, _errors: Any, multiple: bool = False) -> None:
        """Acknowledge the message: its task is done."""
        try:
            self.ack(multiple=multiple)
        except self.channel.connection_errors as error:
            _say_owed(error)

    def reject_log_error(self, _logger: Any, _errors: Any, requeue: bool = False) -> None:
        """Give the message back to its queue (`requeue`), or drop it."""
        try:
            self.reject(requeue=requeue)
        except self.channel.connection_errors as error:
            _say_owed(error)

    def give_back_later(self) -> None:
        """Give the message back over a later connection, because an error ended its handling."""
        self.channel.qos.owe(self.delivery_tag, requeue=True)

    def put_aside(self, error: EmailError) -> None:
        """Set the message aside: a worker of this release cannot run it."""
        self.channel.qos.put_aside(self.delivery_tag, error, self._raw, len(self.body or ""))
        virtual.QoS.ack(self.channel.qos, self.delivery_tag)
        self._state = "REJECTED"


class Deliveries(redis.QoS):  # type: ignore[misc]
    """The messages in hand, and the broker's notes of them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.restore_visible = Seldom(self._restore_visible)
        self.owed: dict[str, Settlement] = {}  # by tag
        # A worker that stops has threads that settle messages, and a second connection to a slow broker takes long.
        # The lock is reentrant: the handler of SIGQUIT settles messages too, while the main thread may be in `_tell`.
        self._one_at_a_time = RLock()
        self._tell_soon = Seldom(self.tell_what_is_owed)

    @property
    def in_hand(self) -> int:
        """How many messages are in hand. kombu forgets those that are settled only when the next one comes."""
        return max(len(self._delivered) - len(self._dirty), 0)

    def move_to(self, channel: Any) -> None:
        """Continue on a new channel with the messages in hand."""
        self.hang_up()
        self.channel = channel
        for message in self._delivered.values():
            message.channel = channel

    def hang_up(self) -> None:
        """Ask for no more messages on this channel. A message whose delivery was not read is owed to its queue."""
        self.channel.hang_up()
        if tag := self.channel.unanswered:
            self.owed.setdefault(tag, "first")

    def append(self, message: Any, delivery_tag: str) -> None:
        """Count the message as in hand; note it in Redis unless the script that took it has done so."""
        if self.channel.is_noted:
            virtual.QoS.append(self, message, delivery_tag)
        else:
            super().append(message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge the message: the broker deletes it."""
        self._settle(delivery_tag, requeue=False)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Give the message back to its queue (`requeue`), or have the broker delete it."""
        self._settle(delivery_tag, requeue=requeue)

    def _settle(self, delivery_tag: str, *, requeue: bool) -> None:
        """Tell the broker, or later if it does not answer or is slow:
        waiting for it once for each message would take minutes."""
        self.owe(delivery_tag, requeue=requeue)
        if not self.channel.is_silent():
            self._tell_soon()

    def owe(self, delivery_tag: str, *, requeue: bool) -> None:
        """Count the message as no longer in hand, and remember to tell the broker."""
        self.owed.setdefault(delivery_tag, "last" if requeue else "done")
        virtual.QoS.ack(self, delivery_tag)

    def tell_what_is_owed(self) -> None:
        """Tell the broker all that is owed, with two questions, and two more for each further 32 MB given back.

        What it cannot be told stays owed. Raises errors of the connection.
        """
        try:
            with self._one_at_a_time:
                while self.owed:
                    self._tell(dict(self.owed))
        except OutOfMemoryError as error:
            _say_owed(error)
        except ResponseError:
            # A worker tells before it takes messages: a table of another type would keep it from its work.
            with self.channel.conn_or_acquire() as client:
                self._rename_other_types(client)
            raise

    def _tell(self, owed: Mapping[str, Settlement]) -> None:
        done = [tag for tag, settlement in owed.items() if settlement == "done"]
        returned = [tag for tag, settlement in owed.items() if settlement != "done"]
        entries = dict(zip(returned, self._delete_and_read(done, returned), strict=False))
        self._give_back({tag: (owed[tag], entry) for tag, entry in entries.items()})
        for tag in (*done, *entries):
            self.owed.pop(tag, None)

    def _delete_and_read(self, done: Sequence[aside.Tag], returned: Sequence[aside.Tag]) -> list[Entry]:
        """Delete messages from the broker's table, and read other entries of the table.

        Reads as many of the first entries as can be given back at once.
        """
        tables, bounds = (self.unacked_key, self.unacked_index_key), (_MAX_AT_ONCE, MAX_ENTRY_BYTES)
        with self.channel.conn_or_acquire() as client:
            return client.eval(SETTLE, len(tables), *tables, *bounds, len(done), *done, *returned)  # type: ignore[no-any-return]

    def _give_back(self, entries: Mapping[Any, tuple[Settlement, Entry]]) -> None:
        """Give messages back to their queues, or put those aside that no worker could read there.

        `entries` maps each tag to the end of its queue, and to its entry in the broker's table.
        """
        keys: list[str] = []
        arguments: list[Any] = []
        for tag, (settlement, entry) in entries.items():
            if entry is None:
                continue  # another worker has given the message back
            if isinstance(entry, int):
                self.put_aside(tag, too_large(entry), size=entry)
                continue
            try:
                key, not_before, message = self.channel.given_back(entry)
            except (*self.channel.connection_errors, *redis.Transport.channel_errors):
                raise
            except Exception as error:
                self.put_aside(tag, unreadable(error))
            else:
                keys.append(key)
                arguments += [tag, "LPUSH" if settlement == "last" else "RPUSH", not_before, message]
        if keys:
            tables = self.unacked_key, self.unacked_index_key
            with self.channel.conn_or_acquire() as client:
                client.eval(GIVE_BACK, 2 + len(keys), *tables, *keys, *arguments)

    def _restore_visible(self, *args: Any, **kwargs: Any) -> None:
        """Give messages back to their queues that other workers did not finish within the visibility timeout.

        Waits for a later call where Redis is full. A worker that stops leaves this to others.
        """
        if shutdown.is_requested():
            return
        with self.channel.conn_or_acquire() as client:
            if client.ttl(self.unacked_mutex_key) == _NEVER_EXPIRES:
                client.delete(self.unacked_mutex_key)  # no worker's lock: a worker's lock has an expiry
            self._rename_other_types(client)
            # kombu compares the index, written by Redis's clock, with the clock of this host.
            ahead = time() - float(client.eval(TAKEN_BY_NOW, 1, self.unacked_index_key))
            self.visibility_timeout = self.channel.visibility_timeout + ahead
        try:
            super().restore_visible(*args, **kwargs)
        except OutOfMemoryError:
            _outages.warning("Redis is full: what other workers left unfinished is not given back yet")

    def _rename_other_types(self, client: Any) -> None:
        rename_unless(client, self.unacked_key, "hash")
        rename_unless(client, self.unacked_index_key, "zset")

    def restore_unacked(self, client: Any = None) -> None:  # noqa: ARG002 - as kombu's
        """Give the messages in hand back to their queues.

        If closing the connection failed and is tried again, the transport is already gone: then the messages are
        delivered again after the visibility timeout.
        """
        if self.channel.connection.client is None:
            self._delivered.clear()
        else:
            self._flush()
            # The message that was taken first comes last, at the front.
            self.owed.update((tag, "first") for tag in reversed(self._delivered) if tag not in self.owed)
            self._delivered.clear()
            self.tell_what_is_owed()

    def restore_by_tag(self, tag: aside.Tag, client: Any = None, leftmost: bool = False) -> None:  # noqa: ARG002
        """Give the message with this tag back to its queue, or put it aside if no worker could read it there."""
        [entry] = self._delete_and_read([], [tag])
        if entry is None:
            self._delete_and_read([tag], [])  # the index names a message that is not in the table
        self._give_back({tag: ("last" if leftmost else "first", entry)})

    def put_aside(self, tag: aside.Tag, error: EmailError, message: object = None, size: int = 0) -> None:
        """Put the message that was delivered under this tag aside (tasks/runtime/broker/aside.py)."""
        with self.channel.conn_or_acquire() as client:
            tables = self.unacked_key, self.unacked_index_key
            note = aside.put(client, tables, tag, error, message, size)
        # Anybody who can write to a queue chose the content: log
        # only the name and the id, and only if they are plain words.
        _logger.error(
            "a message was put aside as %s: task %s[%s]: %s", aside.shown(tag), note.task_name, note.task_id, error
        )


def _say_owed(error: Exception) -> None:
    _outages.warning("the broker cannot be told yet what became of a task: %s", error)


def too_large(size: int) -> MessageUnreadableError:
    """The error of a message that a worker does not read because it has so many bytes."""
    return MessageUnreadableError(f"{size} bytes are too many")


def unreadable(error: Exception) -> EmailError:
    """The error to show. Of any error but an EmailError it has only the type, as the text may repeat the message."""
    return error if isinstance(error, EmailError) else MessageUnreadableError(type(error).__name__)
