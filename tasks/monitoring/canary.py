"""Whether each queue is consumed: a canary is put on it, a task that does nothing, and must come back in time.

A canary goes to the front of its queue, so that a long queue does not look like one that nobody consumes. It comes
back through the result store, when a process of a worker has run it. A canary that is meant for one worker goes to
the queue that only this worker consumes. A canary that is late is taken out of its queue again. One that is left
there, because whoever asked was killed, has expired: the first worker that takes it drops it without running it, and
Redis drops a worker's own queue after an hour. Nothing of a canary stays: no result, no dead letter.

No canary comes back while all processes of a worker are at work; then the tasks at work are counted.
"""

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from celery import Celery
from celery.exceptions import TimeoutError as NoResultError
from celery.result import AsyncResult
from kombu import Queue
from kombu.utils.json import dumps

from tasks.monitoring.readings.workers import tasks_at_work, workers
from tasks.registry import QUEUES
from tasks.runtime.admission import PROBE
from tasks.runtime.broker import clock, transport
from tasks.runtime.broker.queues import is_own, is_served_last, own_queue, wake_key
from tasks.runtime.broker.scripts import STAMP

_PATIENCE_SECONDS = 10.0
_ASKED_SECONDS = 2.0  # how long the workers have to say what they consume and what they are at

# How long the own queue of a worker may outlive whoever put a canary there.
_OWN_QUEUE_SECONDS = 3600

# KEYS: the queue, its tokens. ARGV: the message, after how many seconds Redis drops the queue (0 for never). Returns
# the message as it is on the queue, and whether it has a token of its own (tasks/runtime/broker/scripts.py, _PUT).
# The token comes last and may fail: without it a worker takes the message a second later.
_PUT_FIRST = f"""{STAMP}
local message = stamped(ARGV[1], 0)
redis.call('RPUSH', KEYS[1], message)
local tokens, has_token = redis.pcall('LLEN', KEYS[2]), 0
if tonumber(tokens) and tokens < redis.call('LLEN', KEYS[1]) then
  has_token = tonumber(redis.pcall('LPUSH', KEYS[2], '')) and 1 or 0
end
if tonumber(ARGV[2]) > 0 then
  redis.call('EXPIRE', KEYS[1], ARGV[2])
  redis.pcall('EXPIRE', KEYS[2], ARGV[2])
end
return {{message, has_token}}
"""

# KEYS: the queue, its tokens. ARGV: the message, whether it has a token of its own.
_TAKE_BACK = """
if redis.call('LREM', KEYS[1], -1, ARGV[1]) > 0 and ARGV[2] == '1' then
  redis.pcall('RPOP', KEYS[2])
end
"""


class _Put(NamedTuple):
    """A message that was put on a queue, as it lies there: the list, the queue's tokens, and whether it has one."""

    key: str
    tokens: str
    message: bytes
    has_token: int


@dataclass(frozen=True)
class Consumption:
    """Of the queue or worker `name`: after how many `seconds` its canary came back, or None if it did not.

    If it did not, `at_work` is how many tasks the worker is at, or those workers of the queue are at whose processes
    are all at work, and `waits_for_others` whether the queue is served only while all others are empty, and they are
    not.
    """

    name: str
    seconds: float | None
    at_work: int = 0
    waits_for_others: bool = False

    @property
    def ok(self) -> bool:
        """Whether the worker consumes, or the queue is consumed, or will be when tasks that are at work or come
        before are done."""
        return self.seconds is not None or self.at_work > 0 or self.waits_for_others


class _FrontChannel(transport.Channel):
    """A channel that puts a message to the front of its queue, and can take it back."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._put_here: dict[str, _Put] = {}

    def _put(self, queue: str, message: dict[str, Any], **_: Any) -> None:
        key = self._q_for_pri(queue, self._get_message_priority(message, reverse=False))
        tokens, seconds = wake_key(queue), _OWN_QUEUE_SECONDS if is_own(queue) else 0
        with self.conn_or_acquire() as client:
            clock.to_redis(client, message)
            self._put_here[queue] = _Put(
                key, tokens, *client.eval(_PUT_FIRST, 2, key, tokens, dumps(message), seconds)
            )

    def take_back(self, queues: Iterable[str]) -> None:
        """Take the messages out of these queues, if they are still there."""
        with self.conn_or_acquire() as client, client.pipeline(transaction=False) as pipe:
            for put in map(self._put_here.__getitem__, queues):
                pipe.eval(_TAKE_BACK, 2, *put)
            pipe.execute()

    def length(self, queue: str) -> int:
        """How many messages wait in a queue."""
        return self._size(queue)


class _FrontTransport(transport.Transport):
    Channel = _FrontChannel


class _Canaries:
    """Canaries that are on their way, one for each queue. At the end of the block nothing is left of them.

    `seconds` is after how many seconds each that came back did so, by queue.
    """

    def __init__(self, app: Celery, queues: Iterable[str], patience: float) -> None:
        self._app, self._queues, self._patience = app, tuple(queues), patience
        self._sent: dict[str, AsyncResult] = {}
        self.seconds: dict[str, float] = {}

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            connection = stack.enter_context(self._app.connection_for_write(transport=_FrontTransport))
            stack.enter_context(connection._reraise_as_library_errors())  # noqa: SLF001
            producer = stack.enter_context(self._app.amqp.Producer(connection))
            self.channel = producer.channel
            self._began = time.monotonic()
            for queue in self._queues:
                self._sent[queue] = self._send(producer, queue)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *raised: Any) -> None:
        with self._stack:
            self.channel.take_back(self.missing())
            for canary in self._sent.values():
                canary.forget()

    def missing(self) -> list[str]:
        """The queues whose canaries did not come back."""
        return [queue for queue in self._queues if queue not in self.seconds]

    def wait(self, queues: Iterable[str], patience: float) -> None:
        """Wait for the canaries of these queues until so many seconds after they were sent."""
        for queue in queues:
            with suppress(NoResultError):
                timeout = max(self._began + patience - time.monotonic(), 0)
                self._sent[queue].get(timeout=timeout, propagate=False)
                if self._sent[queue].successful():  # else a worker was late, and dropped it
                    self.seconds[queue] = time.monotonic() - self._began

    def _send(self, producer: Any, queue: str) -> AsyncResult:
        options = {"queue": Queue(queue, routing_key=queue), "expires": self._patience, "retry": False}
        return self._app.send_task(PROBE, ("ok",), {"index": 0}, producer=producer, **options)


def consumption(
    app: Celery, queues: Iterable[str] = tuple(QUEUES), patience: float = _PATIENCE_SECONDS
) -> tuple[Consumption, ...]:
    """Put a canary on each of these queues, and wait for them for so many seconds, all at once.

    Raises kombu.exceptions.OperationalError where the broker does not answer, and ResultsUnavailableError.
    """
    queues = tuple(queues)
    with _Canaries(app, queues, patience) as canaries:
        canaries.wait(queues, patience)
        missing, seconds = canaries.missing(), canaries.seconds
        canaries.channel.take_back(missing)  # they would count as messages that wait
        processes: dict[str, int] = {}
        if missing:
            with canaries.channel.conn_or_acquire() as client:
                processes = {one.node: one.report.concurrency for one in workers(client) if one.report}
        is_waiting = bool(missing) and any(
            canaries.channel.length(queue) for queue in QUEUES if not is_served_last(queue)
        )
    at_work = _at_work(app, processes) if missing else {}
    return tuple(
        Consumption(queue, seconds.get(queue), at_work.get(queue, 0), is_waiting and is_served_last(queue))
        for queue in queues
    )


def consumption_of_workers(
    app: Celery, nodes: Iterable[str], patience: float, patience_if_at_work: float
) -> tuple[Consumption, ...]:
    """Send a canary to each of these workers, and wait for them, all at once.

    A worker that is at work after `patience` seconds has `patience_if_at_work` in all: with as many as its tasks may
    take, a process of it is free by then. What a worker is at is known from what it last reported to Redis. Raises
    what `consumption` raises.
    """
    queues = {node: own_queue(node) for node in nodes}
    with _Canaries(app, queues.values(), patience_if_at_work) as canaries:
        canaries.wait(queues.values(), patience)
        with canaries.channel.conn_or_acquire() as client:
            at_work = Counter(task.node for task in tasks_at_work(workers(client)))
        busy = [queue for node, queue in queues.items() if at_work[node]]
        canaries.wait(set(busy).intersection(canaries.missing()), patience_if_at_work)
        seconds = canaries.seconds
    return tuple(Consumption(node, seconds.get(queue), at_work[node]) for node, queue in queues.items())


def _at_work(app: Celery, processes: Mapping[str, int]) -> Counter[str]:
    """How many tasks the workers of each queue are at whose processes are all at work.

    `processes` is how many each worker has, as far as that is known.
    """
    asked, tasks = app.control.inspect(timeout=_ASKED_SECONDS), Counter[str]()
    begun = {node: len(active) for node, active in (asked.active() or {}).items()}
    busy = {node: count for node, count in begun.items() if count >= max(processes.get(node, 1), 1)}
    for node, queues in ((asked.active_queues() if busy else None) or {}).items():
        tasks.update({queue["name"]: busy.get(node, 0) for queue in queues})
    return tasks
