"""After a restore of the database: what its tasks in Redis may have done in the time that was taken back.

PostgreSQL is behind the world then, and Redis is not. Of the tasks that wait in Redis, all but those that send mail
may run again: they find in the rows, and on the servers, what is left to do. A task that sends a message which the
outbox knows may run as well, because the message is in doubt there and is looked for before it is sent. Any other may
have sent its message after the restored moment, in a row that is lost: it is put aside for a person
(tasks/runtime/broker/aside.py), unless Redis proves that no worker ever took it (docs/decisions/0050).
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Any, NamedTuple

from celery import Celery

from tasks.errors import MaybeSentError, MessageUnreadableError
from tasks.registry import QUEUES, SEND_EMAIL, SEND_WAITING
from tasks.runtime import redeliveries
from tasks.runtime.broker import aside
from tasks.runtime.broker.clock import redis_now
from tasks.runtime.broker.contents import TAKEN, read
from tasks.runtime.broker.envelope import open_body, read_body
from tasks.runtime.broker.queues import lists
from tasks.runtime.broker.transport import broker_client
from tasks.send import outbox_key
from tasks.storage import restores
from tasks.storage.restores import Settled

_AT_A_TIME = 50
_NEVER = -1  # became a primary after it had been a replica


class Restored(NamedTuple):
    """What became of a restore: what PostgreSQL found, and how many tasks that send were kept and put aside."""

    settled: Settled
    kept: int
    aside: int


def settle(app: Celery, name: str, moment: datetime) -> Restored:
    """Deal with what Redis and PostgreSQL disagree on after the restore of this name to that moment.

    No worker and no beat may run meanwhile. It may be interrupted at any instant and called again; once it is done, a
    later call changes nothing. Raises StorageUnavailableError, kombu.exceptions.OperationalError and
    redis.exceptions.RedisError.
    """
    settled = restores.settle(name, moment)
    if settled.is_finished:
        return Restored(settled, 0, 0)
    with broker_client(app) as client:
        knows_all = _has_lost_nothing_since(client, settled.restored_to)
        outcomes = [*_sort_waiting(app, client, knows_all=knows_all), *_sort_taken(app, client)]
    restores.finish(name)
    return Restored(settled, outcomes.count(False), outcomes.count(True))


def _has_lost_nothing_since(client: Any, moment: datetime) -> bool:
    """Whether Redis has run since before that moment, and always as the primary. Otherwise it may have lost its
    latest writes, and a message that a worker had taken may be back in its queue as if it never was."""
    started_at = redis_now(client) - client.info("server")["uptime_in_seconds"]
    said = client.info("replication")
    is_first = said["role"] == "master" and said.get("second_repl_offset", _NEVER) == _NEVER
    return bool(is_first and started_at < moment.timestamp())


def _sort_waiting(app: Celery, client: Any, *, knows_all: bool) -> Iterator[bool]:
    """Of each task that sends and waits in a queue, whether it was put aside."""
    for queue in QUEUES:
        for key in lists(queue):
            # From the end from which workers take: what is queued meanwhile comes at the other.
            place = 1
            while found := client.lrange(key, -place - _AT_A_TIME + 1, -place):
                for raw in reversed(found):
                    send = _send_of(app, read(raw))
                    if send is None or not send.may_have_sent(client, is_taken=not knows_all):
                        place += 1
                        if send:
                            yield False
                    else:
                        yield aside.put_waiting(client, queue, key, raw, MaybeSentError())


def _sort_taken(app: Celery, client: Any) -> Iterator[bool]:
    """Of each task that sends and that a worker had taken when it ended, whether it was put aside."""
    if client.type(TAKEN[0]) != b"hash":
        return
    for tag, entry in client.hscan_iter(TAKEN[0], count=_AT_A_TIME):
        message, _ = aside.split(entry)
        send = _send_of(app, message)
        if send is None:
            continue
        may_have_sent = send.may_have_sent(client, is_taken=True)
        if may_have_sent:
            aside.put(client, TAKEN, tag, MaybeSentError(), message, len(entry))
        yield may_have_sent


class _Send(NamedTuple):
    """A task that sends a message."""

    task_id: str
    name: str
    arguments: dict[str, Any]
    key_of_work: str
    is_fresh: bool  # as far as the message says, no worker has taken it yet

    def may_have_sent(self, client: Any, *, is_taken: bool) -> bool:
        """Whether it may have sent a message of which the outbox knows nothing. `is_taken`: a worker may have had it,
        whatever it says."""
        given = self.arguments
        if self.name == SEND_WAITING:
            return not restores.knows_id(given["tenant_id"], given["outbox_id"])
        key = given.get("idempotency_key")
        if restores.knows_key(given["tenant_id"], given["email_client_id"], outbox_key(key, self.task_id)):
            return False
        # Another task may have sent the message of the same idempotency key.
        return is_taken or not self.is_fresh or bool(key) or redeliveries.is_known(client, self.key_of_work)


def _send_of(app: Celery, message: object) -> _Send | None:
    """The task of a message if it sends; None for any other, and for what a worker puts aside by itself."""
    headers = aside.part(message, "headers")
    name, task_id = headers.get("task"), headers.get("id")
    if name not in (SEND_EMAIL, SEND_WAITING) or not isinstance(task_id, str):
        return None
    task = app.tasks[name]
    try:
        args, kwargs = open_body(read_body(message))
        task.check_arguments(args, kwargs)
    except (MessageUnreadableError, TypeError, ValueError):
        return None
    arguments = task.arguments(args, kwargs)
    was_taken = headers.get("redelivered") or headers.get("retries") or headers.get("metabuilder_waits")
    return _Send(task_id, name, arguments, task.key(args, kwargs, task_id), not was_taken)
