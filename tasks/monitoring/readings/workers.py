"""The workers and the tasks at work, read from the workers' reports (tasks/monitoring/report.py)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from tasks.monitoring.report import REMEMBERED_SECONDS, TTL_SECONDS, WORKERS, Report, Work, report_key
from tasks.runtime.broker.clock import redis_now

# Of nodes, those that reported last, and of bytes in a report: anybody who can write to Redis can write more.
_MAX_NODES, _MAX_BYTES = 1000, 1024 * 1024


@dataclass(frozen=True)
class WorkerReading:
    """A worker that reported within a day. It is down if it no longer does; then its last report is gone too.

    `age` is how many seconds ago it reported, and `report` None if it is down or its report cannot be read.
    """

    node: str
    age: float
    report: Report | None

    @property
    def is_up(self) -> bool:
        return self.report is not None

    @property
    def consumes(self) -> bool:
        """Whether it takes messages from its queues."""
        return self.report is not None and self.report.consumes


@dataclass(frozen=True)
class TaskAtWork:
    """A task that a process of a worker has begun, `seconds` ago."""

    node: str
    pid: int
    work: Work
    seconds: float


def workers(client: Any) -> tuple[WorkerReading, ...]:
    """The workers by name of their node, read through a client of the broker's Redis.

    Raises redis.exceptions.RedisError.
    """
    now = redis_now(client)
    seen = _nodes(client, now)
    with client.pipeline(transaction=False) as pipe:
        for node in seen:
            pipe.getrange(report_key(node), 0, _MAX_BYTES)
            pipe.pttl(report_key(node))
        answers = pipe.execute(raise_on_error=False)
    reports = zip(seen.items(), answers[::2], answers[1::2], strict=True)
    return tuple(sorted((_reading(*of, text, ttl, now) for of, text, ttl in reports), key=lambda one: one.node))


def tasks_at_work(readings: Iterable[WorkerReading]) -> Iterator[TaskAtWork]:
    """The tasks that the processes of these workers have begun."""
    for worker in readings:
        for child in worker.report.children if worker.report else ():
            if child.work:
                yield TaskAtWork(worker.node, child.pid, child.work, child.work.seconds + worker.age)


def _nodes(client: Any, now: float) -> dict[str, float]:
    """The nodes that reported within a day, and when, in Unix seconds."""
    if client.type(WORKERS) != b"zset":
        return {}
    found = client.zrevrangebyscore(WORKERS, "+inf", now - REMEMBERED_SECONDS, 0, _MAX_NODES, withscores=True)
    return {node.decode("utf-8", "replace"): at for node, at in found}


def _reading(node: str, at: float, text: Any, ttl: Any, now: float) -> WorkerReading:
    try:
        if not 0 <= ttl <= TTL_SECONDS * 1000:  # gone, or kept for ever by somebody else
            raise ValueError
        return WorkerReading(node, TTL_SECONDS - ttl / 1000, Report.model_validate_json(text))
    except (ValidationError, ValueError, TypeError):
        return WorkerReading(node, min(max(now - at, 0), REMEMBERED_SECONDS), None)
