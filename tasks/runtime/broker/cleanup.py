"""Finds and deletes what Celery leaves behind in Redis: with
SCAN and never KEYS, so that Redis serves others meanwhile."""

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from tasks.runtime.broker.clock import redis_now

_KEYS_PER_SCAN = 1_000
_RESULTS = "celery-task-meta-*"
_REPLIES = "*.reply.celery.pidbox"
# Whoever asked for an answer has read it, or has gone away, long before this time.
_REPLY_IDLE_SECONDS = 600


def delete_old_results(client: Any, age_seconds: int) -> int:
    """Delete the results of tasks that ended longer than `age_seconds` ago.

    Redis expires results by itself; this is for results that were stored without an expiry.
    """
    deleted, oldest = 0, redis_now(client) - age_seconds
    for names in _without_expiry(client, _RESULTS):
        values = client.mget(names)
        old = [name for name, value in zip(names, values, strict=True) if (_done_at(value) or oldest) < oldest]
        young = set(names) - set(old)
        with client.pipeline(transaction=False) as pipe:
            for name in young:
                pipe.expire(name, age_seconds)
            pipe.execute()
        deleted += client.unlink(*old) if old else 0
    return deleted


def delete_orphaned_replies(client: Any) -> int:
    """Delete queues of answers to remote control that nobody fetches any more (celery 6089, kombu 294)."""
    deleted = 0
    for names in _without_expiry(client, _REPLIES):
        with client.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.object("idletime", name)
            idle = pipe.execute(raise_on_error=False)
        old = [n for n, s in zip(names, idle, strict=True) if isinstance(s, int) and s > _REPLY_IDLE_SECONDS]
        deleted += client.unlink(*old) if old else 0
    return deleted


def _without_expiry(client: Any, pattern: str) -> Iterator[list[bytes]]:
    """The names of keys that never expire, as they are found."""
    cursor = 0
    while True:
        cursor, names = client.scan(cursor, match=pattern, count=_KEYS_PER_SCAN)
        with client.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.ttl(name)
            ttls = pipe.execute()
        if lasting := [name for name, ttl in zip(names, ttls, strict=True) if ttl == -1]:
            yield lasting
        if not cursor:
            return


def _done_at(value: bytes | None) -> float | None:
    """When a task ended, in Unix seconds; None for a task that has not ended, and for a value that is no result."""
    try:
        return datetime.fromisoformat(json.loads(value or b"{}")["date_done"]).timestamp()
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
