"""Whether each queue is consumed: a canary is put on it, a task that does nothing, and must come back in time.

A canary goes to the front of its queue, so that a long queue does not look like one that nobody consumes. It comes
back through the result store, when a process of a worker has run it. A canary that is late is taken out of its queue
again. One that is left there, because whoever asked was killed, has expired: the first worker that takes it drops it
without running it. Nothing of a canary stays: no result, no dead letter.

No canary of a queue comes back while all processes of its workers are at work; then the tasks at work are counted.
"""

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from celery import Celery
from celery.exceptions import TimeoutError as NoResultError
from celery.result import AsyncResult
from kombu.utils.json import dumps

from tasks.registry import QUEUES
from tasks.runtime.admission import PROBE
from tasks.runtime.broker import clock, transport
from tasks.runtime.broker.queues import is_served_last, wake_key
from tasks.runtime.broker.scripts import STAMP

_PATIENCE_SECONDS = 10.0
_ASKED_SECONDS = 2.0  # how long the workers have to say what they consume and what they are at

# KEYS: the queue, its tokens. ARGV: the message. Returns the message as it is on the queue. The token comes last and
# may fail: without it a worker takes the message a second later.
_PUT_FIRST = f"""{STAMP}
local message = stamped(ARGV[1], 0)
redis.call('RPUSH', KEYS[1], message)
redis.pcall('LPUSH', KEYS[2], '')
return message
"""


@dataclass(frozen=True)
class Consumption:
    """Of the queue `name`: after how many `seconds` its canary came back, or None if it did not.

    If it did not, `at_work` is how many tasks the workers of the queue are at, and `waits_for_others` whether the
    queue is served only while all others are empty, and they are not.
    """

    name: str
    seconds: float | None
    at_work: int = 0
    waits_for_others: bool = False

    @property
    def ok(self) -> bool:
        """Whether the queue is consumed, or will be when tasks that are at work or come before are done."""
        return self.seconds is not None or self.at_work > 0 or self.waits_for_others


class _FrontChannel(transport.Channel):
    """A channel that puts a message to the front of its queue, and can take it back."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._put_here: dict[str, tuple[str, bytes]] = {}

    def _put(self, queue: str, message: dict[str, Any], **_: Any) -> None:
        key = self._q_for_pri(queue, self._get_message_priority(message, reverse=False))
        with self.conn_or_acquire() as client:
            clock.to_redis(client, message)
            self._put_here[queue] = key, client.eval(_PUT_FIRST, 2, key, wake_key(queue), dumps(message))

    def take_back(self, queues: Iterable[str]) -> None:
        """Take the messages out of these queues, if they are still there."""
        with self.conn_or_acquire() as client, client.pipeline(transaction=False) as pipe:
            for key, text in map(self._put_here.__getitem__, queues):
                pipe.lrem(key, -1, text)  # from the front on
            pipe.execute()

    def length(self, queue: str) -> int:
        """How many messages wait in a queue."""
        return self._size(queue)


class _FrontTransport(transport.Transport):
    Channel = _FrontChannel


def consumption(
    app: Celery, queues: Iterable[str] = tuple(QUEUES), patience: float = _PATIENCE_SECONDS
) -> tuple[Consumption, ...]:
    """Put a canary on each of these queues, and wait for them for so many seconds, all at once.

    Raises kombu.exceptions.OperationalError where the broker does not answer, and ResultsUnavailableError.
    """
    queues = tuple(queues)
    with (
        app.connection_for_write(transport=_FrontTransport) as connection,
        connection._reraise_as_library_errors(),  # noqa: SLF001
        app.amqp.Producer(connection) as producer,
    ):
        channel = producer.channel
        canaries = {queue: _put(app, producer, queue, patience) for queue in queues}
        seconds = _wait(canaries, patience)
        missing = [queue for queue in queues if queue not in seconds]
        channel.take_back(missing)
        is_waiting = bool(missing) and any(channel.length(queue) for queue in QUEUES if not is_served_last(queue))
    at_work = _at_work(app) if missing else {}
    return tuple(
        Consumption(queue, seconds.get(queue), at_work.get(queue, 0), is_waiting and is_served_last(queue))
        for queue in queues
    )


def _put(app: Celery, producer: Any, queue: str, patience: float) -> AsyncResult:
    return app.send_task(PROBE, ("ok",), {"index": 0}, queue=queue, expires=patience, producer=producer, retry=False)


def _wait(canaries: Mapping[str, AsyncResult], patience: float) -> dict[str, float]:
    """The seconds after which the canaries of the queues came back, without those that did not."""
    began, seconds = time.monotonic(), {}
    for queue, canary in canaries.items():
        with suppress(NoResultError):
            canary.get(timeout=max(began + patience - time.monotonic(), 0), propagate=False)
            if canary.successful():  # else a worker was late, and dropped it
                seconds[queue] = time.monotonic() - began
        canary.forget()
    return seconds


def _at_work(app: Celery) -> Counter[str]:
    """How many tasks the workers of each queue have begun."""
    workers, tasks = app.control.inspect(timeout=_ASKED_SECONDS), Counter[str]()
    active = workers.active() or {}
    consumed = workers.active_queues() if any(active.values()) else None
    for node, queues in (consumed or {}).items():
        tasks.update({queue["name"]: len(active.get(node, ())) for queue in queues})
    return tasks
