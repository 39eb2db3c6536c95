"""Counts how often a task killed its worker, and remembers which tasks are dead letters.

A task that kills its worker (out of memory, a crash of a library, the hard time limit) is delivered again, because it
is acknowledged only at its end. That must not go on for ever. So each redelivery is counted in Redis before the work
begins. It is counted under a key for the work, and not under the task's id, because each sync of a mailbox that kills
its worker has a new id. Within a key each id has its own count, and only the highest count matters: a worker that
stops gives back all its messages, and four syncs of one mailbox that are redelivered at once have killed no worker.

A task that ends without killing its worker resets the count of its id. A task that succeeds or makes progress resets
the counts of all ids of its key.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from celery import Celery
from kombu.exceptions import OperationalError
from kombu.utils.json import dumps
from redis.exceptions import RedisError, ResponseError

from tasks.runtime.broker.scripts import rename_unless
from tasks.runtime.broker.transport import broker_client

logger = logging.getLogger(__name__)

# A hash for each key: the ids of tasks, and how often each was redelivered.
_REDELIVERIES = "metabuilder:redeliveries:{}"
# Exists while there is a dead letter with this key.
_DEAD = "metabuilder:dead:{}"
_REMEMBERED_SECONDS = 30 * 24 * 3600
_MAX_DIGITS = 9  # of a count; HINCRBY cannot add to a number of twenty


class History(NamedTuple):
    """What is known before a task runs: the highest count of
    redeliveries of its key, and whether there is a dead letter."""

    redeliveries: int = 0
    is_dead: bool = False


def task_key(name: str, arguments: Mapping[str, Any]) -> str:
    """The key of the work that a task does: the same for every
    delivery, and for every task with this name and arguments."""
    return hashlib.sha256(dumps([name, sorted(arguments.items())]).encode()).hexdigest()


def begin(app: Celery, key: str, task_id: str, *, is_redelivered: bool) -> History:
    """Count a redelivery of a task that is about to start, and return what is known about its key."""
    name = _REDELIVERIES.format(key)

    def count(pipe: Any) -> None:
        if is_redelivered:
            pipe.hincrby(name, task_id, 1)
            pipe.expire(name, _REMEMBERED_SECONDS)
        pipe.hvals(name)
        pipe.exists(_DEAD.format(key))

    def start_anew(client: Any) -> None:
        rename_unless(client, name, "hash")
        client.hdel(name, task_id)

    answers = _tell(app, count, start_anew)
    counts, dead = answers[-2:] if answers else ((), 0)
    # A value that is no number, or that no count can reach, counts as no redelivery.
    likely = (int(count) for count in counts if count.isdigit() and len(count) <= _MAX_DIGITS)
    return History(max(likely, default=0), bool(dead))


def is_known(client: Any, key: str) -> bool:
    """Whether work of this key was redelivered, or became a dead letter, and has not succeeded since."""
    return bool(client.exists(_REDELIVERIES.format(key), _DEAD.format(key)))


def note_survival(app: Celery, key: str, task_id: str) -> None:
    """Reset the count of the id: the task failed, but it did not kill its worker."""
    _tell(app, lambda pipe: pipe.hdel(_REDELIVERIES.format(key), task_id))


def note_progress(app: Celery, key: str) -> None:
    """Reset all counts of the key: the task got past the point at which it killed its workers."""
    _tell(app, lambda pipe: pipe.delete(_REDELIVERIES.format(key)))


def note_dead_letter(app: Celery, key: str) -> None:
    """Remember that there is a dead letter with this key."""
    _tell(app, lambda pipe: pipe.set(_DEAD.format(key), 1, ex=_REMEMBERED_SECONDS))


def forget(app: Celery, key: str) -> None:
    """Forget all counts of the key, and its dead letter."""
    _tell(app, lambda pipe: pipe.delete(_REDELIVERIES.format(key), _DEAD.format(key)))


def start_over(app: Celery, key: str, *, is_dead: bool) -> None:
    """Forget all counts of the key, as a person decided that the
    task may run; `is_dead` says whether a dead letter remains.

    Raises kombu.exceptions.OperationalError and redis.exceptions.RedisError.
    """

    def write(pipe: Any) -> None:
        pipe.delete(_REDELIVERIES.format(key), _DEAD.format(key))
        if is_dead:
            pipe.set(_DEAD.format(key), 1, ex=_REMEMBERED_SECONDS)

    _ask(app, write)


def _ask(app: Celery, write: Callable[[Any], object]) -> list[Any]:
    with broker_client(app) as client, client.pipeline(transaction=False) as pipe:
        write(pipe)
        answers: list[Any] = pipe.execute()
        return answers


def _tell(app: Celery, write: Callable[[Any], object], mend: Callable[[Any], object] | None = None) -> list[Any]:
    """The broker's answers to the commands that `write` puts into a pipeline; an empty list where the broker is away.

    In that case the task runs without being counted: its work matters more than the count. Where Redis refuses a
    command, as somebody wrote something else into the key, `mend` makes room and the commands are sent again.
    """
    try:
        try:
            return _ask(app, write)
        except ResponseError:
            if mend is None:
                raise
            with broker_client(app) as client:
                mend(client)
            return _ask(app, write)
    except (RedisError, OperationalError, OSError) as error:
        logger.warning("the broker does not answer, so redeliveries are not counted: %s", error)
        return []
