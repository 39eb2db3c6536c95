"""Finds and deletes what Celery leaves behind in Redis: with
SCAN and never KEYS, so that Redis serves others meanwhile."""

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from tasks.registry import QUEUES
from tasks.runtime.broker.clock import redis_now
from tasks.runtime.broker.queues import lists

_KEYS_PER_SCAN = 1_000
_RESULTS = "celery-task-meta-*"
_REPLIES = "*.reply.celery.pidbox"
# Whoever asked for an answer has read it, or has gone away, long before this time.
_REPLY_IDLE_SECONDS = 600

# A hash: how many keys were orphans when the cleanup last looked, by store. It outlives one cleanup that is missed.
ORPHANS = "metabuilder:orphans"
_ORPHANS_SECONDS = 3 * 3600
# Keys that stay: queues, and what kombu, its transport and this release keep of messages and of themselves.
_KNOWN = frozenset(
    [key.encode() for queue in QUEUES for key in lists(queue)] + [b"unacked", b"unacked_index", b"unacked_mutex"]
)
_KNOWN_BEGINNINGS = (b"metabuilder:", b"_kombu.", b"celeryev", b"celery-task-meta-")
_KNOWN_END = b".celery.pidbox"
_RENAMED = b":of-another-type"  # tasks/runtime/broker/scripts.py


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


def count_orphans(client: Any) -> int:
    """How many keys never expire and belong to nobody: their names are none that this release uses, or what they held
    was of another type than the name stands for."""
    return sum(not _is_known(name) for names in _without_expiry(client, "*") for name in names)


def note_orphans(broker: Any, counts: Mapping[str, int]) -> None:
    """Leave in the broker's Redis how many orphans were counted, by store, for an exporter to tell."""
    with broker.pipeline(transaction=False) as pipe:
        pipe.delete(ORPHANS)  # which may be of any type
        pipe.hset(ORPHANS, mapping=dict(counts))
        pipe.expire(ORPHANS, _ORPHANS_SECONDS)
        pipe.execute()


def _is_known(name: bytes) -> bool:
    if name.endswith(_RENAMED):
        return False
    return name in _KNOWN or name.startswith(_KNOWN_BEGINNINGS) or name.endswith(_KNOWN_END)


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
