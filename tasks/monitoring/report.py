"""What the main process of each worker leaves of itself in the broker's Redis, for others to read:

    metabuilder:worker:<node>   the worker's report as JSON (Report), which expires soon after the worker is gone
    metabuilder:workers         a sorted set: the nodes that reported within a day, and when each last did

A report has no moments of this host's clock, but how many seconds ago something was: the age of the report is known
from its time to live (tasks/monitoring/readings/workers.py). It has nothing of a task but what may be shown.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from tasks.runtime.broker.scripts import rename_unless

WORKERS = "metabuilder:workers"
_REPORT = "metabuilder:worker:{}"

INTERVAL_SECONDS = 2
# A worker that has not reported for so long is down.
TTL_SECONDS = 15
# A worker that is down is remembered for so long; a worker that was stopped is forgotten at once.
REMEMBERED_SECONDS = 24 * 3600

# KEYS: the report, the nodes. ARGV: the node, the report, its time to live, how long a node is remembered. The
# removals come first, so that a full Redis takes the report all the same.
_TELL = """
local now = redis.call('TIME')[1]
redis.call('DEL', KEYS[1])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - ARGV[4])
redis.call('ZADD', KEYS[2], now, ARGV[1])
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
"""

Count = Annotated[int, Field(ge=0, lt=2**63)]
Seconds = Annotated[float, Field(ge=0, lt=2**32, allow_inf_nan=False)]
Words = Annotated[str, Field(max_length=512)]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)


class Work(_Value):
    """A task that a process has begun, with its arguments, redacted (tasks/runtime/redaction.py)."""

    id: Words
    name: Words
    positional: Words
    named: Words
    seconds: Seconds  # since it began


class Child(_Value):
    """A process of the pool. `pss` is its share of memory in bytes; None where the system does not tell."""

    pid: Count
    pss: Count | None
    work: Work | None


class Connections(_Value):
    """The connections that the processes of a worker hold, and how many to PostgreSQL their pools keep."""

    redis: Count
    postgresql: Count
    postgresql_kept: Count


class Report(_Value):
    """A worker, as its main process sees it."""

    node: Words
    host: Words
    pid: Count
    release: Words
    seconds: Seconds  # since it began
    concurrency: Count
    consumes: bool
    is_stopping: bool
    reserved: Count  # messages that it has taken and whose tasks no process has begun
    restarts: Count  # processes that were started in the place of others
    pss: Count | None  # of the main process
    connections: Connections | None = None  # which a worker of an older release does not tell
    children: Annotated[tuple[Child, ...], Field(max_length=1000, strict=False)]


def report_key(node: str) -> str:
    """The key of a worker's report."""
    return _REPORT.format(node)


def tell(client: Any, report: Report) -> None:
    """Leave the report in Redis."""
    keys = report_key(report.node), WORKERS
    limits = TTL_SECONDS, REMEMBERED_SECONDS
    client.eval(_TELL, len(keys), *keys, report.node, report.model_dump_json(), *limits)


def take_back(client: Any, node: str) -> None:
    """Take the report of a worker that stops out of Redis."""
    client.delete(report_key(node))
    client.zrem(WORKERS, node)


def mend(client: Any) -> None:
    """Make room where somebody wrote something else into the keys."""
    rename_unless(client, WORKERS, "zset")
