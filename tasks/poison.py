"""Counts how often a task's worker died of it, and remembers what is among the dead letters.

A task that kills its worker (out of memory, a crash of a library, the hard time limit) comes back, because it is
acknowledged late. It must not come back for ever. So each redelivery is counted in Redis before the work begins, by
what the task is to do and not by its id: a mailbox that kills its worker does so under a new id at every sync. A run
that survives, or a sync that gets further, takes the count back to nothing.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from celery import Celery
from kombu.exceptions import OperationalError
from kombu.utils.json import dumps
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)

# A hash of what is known about one task: `redeliveries`, and `dead` where it is among the dead letters.
_KEY = "metabuilder:task:{}"
_REMEMBERED_SECONDS = 30 * 24 * 3600


class History(NamedTuple):
    """What is known about a task before it runs."""

    redeliveries: int = 0
    is_dead: bool = False


def task_key(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """What a task is to do, as one value: the same for every delivery and every id of it."""
    return hashlib.sha256(dumps([name, list(args), sorted(kwargs.items())]).encode()).hexdigest()


def begin(app: Celery, key: str, *, is_redelivered: bool) -> History:
    """The task starts; a redelivery is counted."""
    name = _KEY.format(key)

    def count(pipe: Any) -> None:
        if is_redelivered:
            pipe.hincrby(name, "redeliveries", 1)
            pipe.expire(name, _REMEMBERED_SECONDS)
        pipe.hmget(name, "redeliveries", "dead")

    answers = _tell(app, count)
    redeliveries, dead = answers[-1] if answers else (None, None)
    return History(int(redeliveries or 0), bool(dead))


def note_survival(app: Celery, key: str) -> None:
    """The task got somewhere without killing its worker."""
    _tell(app, lambda pipe: pipe.hdel(_KEY.format(key), "redeliveries"))


def note_death(app: Celery, key: str) -> None:
    """The task is among the dead letters."""
    name = _KEY.format(key)
    _tell(app, lambda pipe: pipe.hset(name, "dead", "1").expire(name, _REMEMBERED_SECONDS))


def forget(app: Celery, key: str) -> None:
    """Nothing is held against the task any more."""
    _tell(app, lambda pipe: pipe.delete(_KEY.format(key)))


def _tell(app: Celery, write: Callable[[Any], object]) -> list[Any]:
    """The broker's answers to what `write` puts into a pipeline; none where it is away.

    Then the task runs uncounted: what it is to do matters more.
    """
    try:
        with (
            app.pool.acquire(block=True) as connection,
            connection.default_channel.conn_or_acquire() as client,
            client.pipeline(transaction=False) as pipe,
        ):
            write(pipe)
            answers: list[Any] = pipe.execute()
            return answers
    except (RedisError, OperationalError, OSError) as error:
        logger.warning("the broker does not answer, so redeliveries are not counted: %s", error)
        return []
