"""When each entry of beat's schedule last ran and runs next, as beat notes it in Redis."""

from dataclasses import dataclass
from typing import Any

from redis import RedisError, ResponseError

from tasks.registry import TASKS
from tasks.runtime.broker.clock import redis_now
from tasks.runtime.scheduler import LAST_RUNS, TICKED

_END = 2**32  # Unix seconds, in the year 2106


@dataclass(frozen=True)
class Entry:
    """An entry of the schedule. Seconds are by Redis's clock; None where no beat has noted a run."""

    name: str
    task: str
    every: int  # seconds
    last_run: float | None  # so many seconds ago
    next_run: float | None  # in so many seconds; negative where it is late


@dataclass(frozen=True)
class Beat:
    """The schedule, and how many seconds ago any beat looked at it; None if none ever did."""

    ticked: float | None
    entries: tuple[Entry, ...]


def beat(client: Any) -> Beat:
    """Read when beat did what. Notes that are no times count as missing."""
    now = redis_now(client)
    schedules = [(row.name, row.schedule) for row in TASKS if row.schedule]
    with client.pipeline(transaction=False) as pipe:
        pipe.get(TICKED)
        pipe.hmget(LAST_RUNS, [schedule.entry for _, schedule in schedules])
        ticked, last_runs = pipe.execute(raise_on_error=False)
    for answer in (ticked, last_runs):
        if isinstance(answer, RedisError) and not _is_of_another_type(answer):
            raise answer
    if isinstance(last_runs, ResponseError):
        last_runs = [None] * len(schedules)
    entries = []
    for (task, schedule), noted in zip(schedules, last_runs, strict=True):
        ago = _seconds_ago(noted, now)
        entries.append(
            Entry(schedule.entry, task, schedule.seconds, ago, None if ago is None else schedule.seconds - ago)
        )
    return Beat(_seconds_ago(ticked, now), tuple(entries))


def _is_of_another_type(error: RedisError) -> bool:
    return isinstance(error, ResponseError) and str(error).startswith("WRONGTYPE")


def _seconds_ago(noted: object, now: float) -> float | None:
    try:
        moment = float(noted) if isinstance(noted, bytes) else -1
    except ValueError:
        return None
    return now - moment if 0 <= moment <= _END else None
