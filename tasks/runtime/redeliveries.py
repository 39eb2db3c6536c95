"""Counts how often a task's worker died of it, and remembers what is among the dead letters.

A task that kills its worker (out of memory, a crash of a library, the hard time limit) comes back, because it is
acknowledged late. It must not come back for ever. So each redelivery is counted in Redis before the work begins, by
what the task is to do: a mailbox that kills its worker does so under a new id at every sync. Each id has a count of
its own, and the highest is what counts: a worker that stops gives back all that it holds, and four syncs of one
mailbox that come back at once have killed nobody.

A run that survives takes the count of its id back to nothing, one that succeeds or gets further those of all.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from celery import Celery
from kombu.exceptions import OperationalError
from kombu.utils.json import dumps
from redis.exceptions import RedisError

from tasks.runtime.broker.transport import broker_client

logger = logging.getLogger(__name__)

# A hash: how often each id of one thing to do was redelivered.
_REDELIVERIES = "metabuilder:redeliveries:{}"
# Is there where it is among the dead letters.
_DEAD = "metabuilder:dead:{}"
_REMEMBERED_SECONDS = 30 * 24 * 3600


class History(NamedTuple):
    """What is known about a task before it runs."""

    redeliveries: int = 0
    is_dead: bool = False


def task_key(name: str, arguments: Mapping[str, Any]) -> str:
    """What a task is to do, as one value: the same for every delivery and every id of it."""
    return hashlib.sha256(dumps([name, sorted(arguments.items())]).encode()).hexdigest()


def begin(app: Celery, key: str, task_id: str, *, is_redelivered: bool) -> History:
    """The task starts; a redelivery is counted."""
    name = _REDELIVERIES.format(key)

    def count(pipe: Any) -> None:
        if is_redelivered:
            pipe.hincrby(name, task_id, 1)
            pipe.expire(name, _REMEMBERED_SECONDS)
        pipe.hvals(name)
        pipe.exists(_DEAD.format(key))

    answers = _tell(app, count)
    counts, dead = answers[-2:] if answers else ((), 0)
    # Of what is no number there nothing is held against the task.
    return History(max((int(count) for count in counts if count.isdigit()), default=0), bool(dead))


def note_survival(app: Celery, key: str, task_id: str) -> None:
    """The task did not get far, and did not kill its worker."""
    _tell(app, lambda pipe: pipe.hdel(_REDELIVERIES.format(key), task_id))


def note_progress(app: Celery, key: str) -> None:
    """The task got somewhere: what killed its worker so far lies behind it."""
    _tell(app, lambda pipe: pipe.delete(_REDELIVERIES.format(key)))


def note_dead_letter(app: Celery, key: str) -> None:
    """The task is among the dead letters."""
    _tell(app, lambda pipe: pipe.set(_DEAD.format(key), 1, ex=_REMEMBERED_SECONDS))


def forget(app: Celery, key: str) -> None:
    """Nothing is held against the task any more."""
    _tell(app, lambda pipe: pipe.delete(_REDELIVERIES.format(key), _DEAD.format(key)))


def start_over(app: Celery, key: str, *, is_dead: bool) -> None:
    """A person decided about the task: nothing is held against it, except that it is among the dead letters if it is.

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


def _tell(app: Celery, write: Callable[[Any], object]) -> list[Any]:
    """The broker's answers to what `write` puts into a pipeline; none where it is away.

    Then the task runs uncounted: what it is to do matters more.
    """
    try:
        return _ask(app, write)
    except (RedisError, OperationalError, OSError) as error:
        logger.warning("the broker does not answer, so redeliveries are not counted: %s", error)
        return []
