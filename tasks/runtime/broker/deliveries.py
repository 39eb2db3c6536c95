"""What a worker has in hand: messages that it took and has not finished, and what the broker is to be told of them.

Celery and kombu tie them to the connection over which they came. When it breaks, they give all of them back, those at
work too, and an acknowledgement that fails is forgotten, so that tasks are done twice. But the broker knows a message
by a tag that is good over any connection. So here a new channel goes on with the deliveries of the one before
(tasks/runtime/consumer.py), and what the broker could not be told stays owed until it is told.

    taken --> in hand --> settled: forgotten (done), or given back
                             |  ^
              cannot be told v  | told each second, and over a new connection
                             owed

What a worker that died had in hand, or owed, comes back after the visibility timeout.
"""

from time import time
from typing import Any

from kombu.log import get_logger
from kombu.transport import redis, virtual
from kombu.utils.encoding import bytes_to_str
from redis.exceptions import OutOfMemoryError

from tasks.errors import EmailError, MessageUnreadableError
from tasks.runtime.broker import aside
from tasks.runtime.broker.scripts import FORGET, TAKEN_BY_NOW, rename_unless
from tasks.runtime.broker.seldom import Seldom

_logger = get_logger(__name__)
# What is said of an outage as long as it lasts (tasks/runtime/broker/outage.py).
_outages = get_logger(f"{__name__}.outages")

_NEVER_EXPIRES = -1  # what Redis answers to TTL


class Message(virtual.Message):  # type: ignore[misc]  # kombu has no types
    """A message whose acknowledgement or return reaches the broker, over a later connection if this one breaks."""

    def ack_log_error(self, _logger: Any, _errors: Any, multiple: bool = False) -> None:
        """Acknowledge the message: the worker is done with it."""
        try:
            self.ack(multiple=multiple)
        except self.channel.connection_errors as error:
            _say_owed(error)

    def reject_log_error(self, _logger: Any, _errors: Any, requeue: bool = False) -> None:
        """Give the message back, or throw it away."""
        try:
            self.reject(requeue=requeue)
        except self.channel.connection_errors as error:
            _say_owed(error)

    def give_back_later(self) -> None:
        """Give the message back over a later connection: handling it broke off."""
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
        self.owed: dict[str, bool] = {}  # by tag: whether it is given back, or forgotten

    def move_to(self, channel: Any) -> None:
        """Go on over a new channel."""
        self.channel = channel
        for message in self._delivered.values():
            message.channel = channel

    def append(self, message: Any, delivery_tag: str) -> None:
        """Count it, and note it where taking it has not done that."""
        if self.channel.is_noted:
            virtual.QoS.append(self, message, delivery_tag)
        else:
            super().append(message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Forget it."""
        self._settle(delivery_tag, requeue=False)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Give it back, or forget it."""
        self._settle(delivery_tag, requeue=requeue)

    def _settle(self, delivery_tag: str, *, requeue: bool) -> None:
        """Tell the broker, unless it is silent: to wait for that once for each task would take minutes."""
        self.owe(delivery_tag, requeue=requeue)
        if not self.channel.is_silent():
            self._tell(delivery_tag)

    def owe(self, delivery_tag: str, *, requeue: bool) -> None:
        """The message is no longer in hand, and the broker is to be told."""
        self.owed.setdefault(delivery_tag, requeue)
        virtual.QoS.ack(self, delivery_tag)

    def tell_what_is_owed(self) -> None:
        """Raises errors of the connection; what could not be told stays owed."""
        for tag in tuple(self.owed):
            try:
                self._tell(tag)
            except OutOfMemoryError as error:
                _say_owed(error)

    def _tell(self, tag: str) -> None:
        if self.owed[tag]:
            self.restore_by_tag(tag, leftmost=True)
        else:
            with self.channel.conn_or_acquire() as client:
                client.eval(FORGET, 2, self.unacked_key, self.unacked_index_key, tag)
        del self.owed[tag]

    def _restore_visible(self, *args: Any, **kwargs: Any) -> None:
        """Give back what others took and did not finish in time, if there is room for it."""
        with self.channel.conn_or_acquire() as client:
            if client.ttl(self.unacked_mutex_key) == _NEVER_EXPIRES:
                client.delete(self.unacked_mutex_key)  # nobody's lock: those of workers end by themselves
            rename_unless(client, self.unacked_index_key, "zset")
            # kombu holds what Redis's clock wrote against that of this host.
            ahead = time() - float(client.eval(TAKEN_BY_NOW, 1, self.unacked_index_key))
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
            self.tell_what_is_owed()
            self._flush()
            super().restore_unacked(client)

    def restore_by_tag(self, tag: str, client: Any = None, leftmost: bool = False) -> None:
        """Give it back to its queue; aside if no worker could take it from there."""
        try:
            super().restore_by_tag(tag, client, leftmost)
        except (*self.channel.connection_errors, *redis.Transport.channel_errors):
            raise
        except Exception as error:
            self.put_aside(bytes_to_str(tag), unreadable(error))

    def put_aside(self, tag: str, error: EmailError, message: object = None, size: int = 0) -> None:
        """Keep what was delivered under this tag where it stops nobody."""
        with self.channel.conn_or_acquire() as client:
            tables = self.unacked_key, self.unacked_index_key
            note = aside.put(client, tables, tag, error, message, size)
        # Who may write a message may write anything into it: of that, only a name and an id that are plain words.
        _logger.error("a message was put aside as %s: task %s[%s]: %s", tag, note.task_name, note.task_id, error)


def _say_owed(error: Exception) -> None:
    _outages.warning("the broker cannot be told yet what became of a task: %s", error)


def unreadable(error: Exception) -> EmailError:
    """The error to show: of any error but an EmailError only the type, as its words may be the message's."""
    return error if isinstance(error, EmailError) else MessageUnreadableError(type(error).__name__)
