"""How many messages come to each queue and how many tasks of it end in a second, without waiting for it:

    metabuilder:rates    a list of JSON, the newest first: how long the queues were and how many tasks had ended

One worker or another adds to the list every few seconds (tasks/monitoring/reporter.py), and whoever wants to know
compares what is now with what was then. The list expires soon after the last worker is gone.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks.monitoring.readings.queues import QueueReading, queues
from tasks.monitoring.readings.totals import TotalsReading, totals
from tasks.registry import TASKS
from tasks.runtime.broker.clock import redis_now
from tasks.runtime.broker.scripts import rename_unless

_NOTES = "metabuilder:rates"
_EVERY_SECONDS, _KEPT, _TTL_SECONDS = 5, 7, 60
# Rates over less than this would be chance.
_LEAST_SECONDS = 1
_OF_QUEUE = {row.name: row.queue for row in TASKS}

# KEYS: the notes. ARGV: how many older ones to keep, the note, the time to live. The removal comes first, so that a
# full Redis takes the note all the same.
_NOTE = """
redis.call('LTRIM', KEYS[1], 0, ARGV[1] - 1)
redis.call('LPUSH', KEYS[1], ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
"""

_Counts = dict[str, Annotated[int, Field(ge=0, lt=2**63)]]


class Snapshot(BaseModel):
    """How long the queues were, and how many of their tasks had ended since the beginning, at a moment in seconds."""

    model_config = ConfigDict(frozen=True, strict=True)

    at: float = Field(ge=0, lt=2**32, allow_inf_nan=False)
    depths: _Counts
    ended: _Counts


class Rate(NamedTuple):
    """Messages that came to a queue, and tasks of it that ended, in a second."""

    in_per_second: float
    out_per_second: float


def snapshot(at: float, found: Sequence[QueueReading], counted: TotalsReading) -> Snapshot:
    """What rates are made of, from what was read of Redis at a moment."""
    ended: dict[str, int] = {}
    for (task, _), count in counted.ended.items():
        if queue := _OF_QUEUE.get(task):
            ended[queue] = ended.get(queue, 0) + count
    return Snapshot(at=at, depths={queue.name: queue.depth for queue in found}, ended=ended)


def between(then: Snapshot, now: Snapshot) -> Mapping[str, Rate]:
    """The rates of each queue between two moments."""
    seconds, found = now.at - then.at or 1, {}
    for queue, depth in now.depths.items():
        out = max(now.ended.get(queue, 0) - then.ended.get(queue, 0), 0)
        come = max(out + depth - then.depths.get(queue, 0), 0)
        found[queue] = Rate(come / seconds, out / seconds)
    return found


def _look(client: Any, found: Sequence[QueueReading]) -> Snapshot:
    """What is now, with queues that were just read. Raises redis.exceptions.RedisError."""
    return snapshot(redis_now(client), found, totals(client))


def rates(client: Any, found: Sequence[QueueReading]) -> Mapping[str, Rate]:
    """The rates of the last half minute, with queues that were just read; none where no worker has noted anything.

    Raises redis.exceptions.RedisError.
    """
    if client.type(_NOTES) != b"list":
        return {}
    now = _look(client, found)
    notes = map(_read, reversed(client.lrange(_NOTES, 0, _KEPT)))
    then = next((note for note in notes if note and now.at - note.at >= _LEAST_SECONDS), None)
    return between(then, now) if then else {}


def note(client: Any) -> None:
    """Note what is now, unless that was done a few seconds ago. Raises redis.exceptions.RedisError."""
    last = _read(client.lindex(_NOTES, 0) or b"")
    if last and 0 <= redis_now(client) - last.at < _EVERY_SECONDS:
        return
    text = _look(client, queues(client)).model_dump_json()
    client.eval(_NOTE, 1, _NOTES, _KEPT, text, _TTL_SECONDS)


def mend(client: Any) -> None:
    """Make room where somebody wrote something else into the key."""
    rename_unless(client, _NOTES, "list")


def _read(text: bytes) -> Snapshot | None:
    try:
        return Snapshot.model_validate_json(text)
    except ValidationError:
        return None
