"""cleanup_stale_results: removes results, leases, blobs, dead letters and events that nobody needs any more.

Queued hourly by beat.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

from celery import Celery, shared_task
from redis.exceptions import RedisError, ResponseError

from tasks.counting import count
from tasks.errors import SoftTimeLimitError
from tasks.registry import CLEANUP_STALE_RESULTS
from tasks.runtime.broker import aside, cleanup
from tasks.runtime.broker.transport import broker_client
from tasks.runtime.task import EmailTask
from tasks.settings import get_settings
from tasks.storage.cleanup import delete_old_dead_letters, delete_unreferenced_blobs, release_expired_leases
from tasks.storage.events import delete_old_events

logger = logging.getLogger(__name__)

# The name of a count, and what removes and counts.
Step = tuple[str, Callable[[], int]]

# The key with the place (tenant and SHA-256) at which the walk over all blobs goes on, if one run does not finish it.
_PLACE = "metabuilder:cleanup:blobs"


@shared_task(bind=True, base=EmailTask, name=CLEANUP_STALE_RESULTS, max_retries=0)
def cleanup_stale_results(self: Any) -> dict[str, Any]:
    """Remove old results, unread answers, expired leases, blobs without references, old dead letters and old events.

    Returns `status` and how many of each kind were removed: results_deleted, reply_queues_deleted, leases_released,
    blobs_deleted, dead_letters_deleted, events_deleted. A step that fails keeps no other from its work; after the
    last step the first error is raised.
    """
    deadline = time.monotonic() + get_settings().worker.budget_seconds
    removed = remove(*in_redis(self.app), *in_postgresql(self.app, deadline))
    _note_orphans(self.app)
    return {"status": "success", **removed}


def _note_orphans(app: Celery) -> None:
    """Count what was not removed and belongs to nobody, for the exporter. The cleanup ends as well without."""
    try:
        with broker_client(app) as broker:
            counts = {"broker": cleanup.count_orphans(broker)}
            if get_settings().redis.results.url != get_settings().redis.broker.url:
                counts["results"] = cleanup.count_orphans(app.backend.client)
            cleanup.note_orphans(broker, counts)
    except RedisError as error:  # a full Redis among them
        logger.warning("keys that belong to nobody are not counted: %s: %s", type(error).__name__, error)


def in_redis(app: Celery) -> tuple[Step, ...]:
    """What is removed from Redis: old results, unread answers, old messages that no worker could run."""
    worker = get_settings().worker
    age_seconds = worker.dead_letter_days * 24 * 3600
    return (
        ("results_deleted", lambda: cleanup.delete_old_results(app.backend.client, worker.result_expires)),
        ("reply_queues_deleted", lambda: _in_broker(app, cleanup.delete_orphaned_replies)),
        ("dead_letters_deleted", lambda: _in_broker(app, lambda broker: aside.delete_old(broker, age_seconds))),
    )


def in_postgresql(app: Celery, deadline: float) -> tuple[Step, ...]:
    """What is removed from PostgreSQL: expired leases, old dead letters, old events, blobs without references.

    Nothing more is begun after `deadline`, in seconds of time.monotonic(); the next run goes on from there.
    """
    return (
        ("leases_released", release_expired_leases),
        ("dead_letters_deleted", lambda: _delete_dead_letters(get_settings().worker.dead_letter_days, deadline)),
        ("events_deleted", lambda: delete_old_events(get_settings().events.retention_days)),
        ("blobs_deleted", lambda: _in_broker(app, lambda broker: _delete_blobs(broker, deadline))),
    )


def _in_broker(app: Celery, step: Callable[[Any], int]) -> int:
    with broker_client(app) as broker:
        return step(broker)


def remove(*steps: Step) -> dict[str, int]:
    """How many were removed by name. Runs all steps, then raises the first error of those that failed."""
    removed = dict.fromkeys((name for name, _ in steps), 0)
    errors: list[Exception] = []
    for name, step in steps:
        try:
            number = step()
            removed[name] += number
            count("removed", name, amount=number)
        except SoftTimeLimitError:
            raise
        except Exception as error:
            logger.exception("a step of the cleanup failed: %s", name)
            errors.append(error)
    if errors:
        raise errors[0]
    return removed


def _delete_dead_letters(age_days: int, deadline: float) -> int:
    deleted = 0
    while time.monotonic() < deadline and (some := delete_old_dead_letters(age_days)):
        deleted += some
    return deleted


def _delete_blobs(broker: Any, deadline: float) -> int:
    """Walk over all blobs from where the last run stopped.

    After a run that got to the end, the next begins at the start.
    """
    tenant_id, sha256 = _place(broker)
    deleted = 0
    while time.monotonic() < deadline:
        step = delete_unreferenced_blobs(tenant_id, sha256)
        deleted += step.deleted
        if step.tenant_id is None or step.sha256 is None:
            broker.delete(_PLACE)
            break
        tenant_id, sha256 = step.tenant_id, step.sha256
        broker.hset(_PLACE, mapping={"tenant_id": tenant_id, "sha256": sha256})
    return deleted


def _place(broker: Any) -> tuple[str, str]:
    """The place at which the last run stopped; the beginning where nobody could have stopped at the stored place."""
    try:
        place = broker.hgetall(_PLACE)
        tenant_id, sha256 = (place.get(name, b"").decode() for name in (b"tenant_id", b"sha256"))
        if (tenant_id + sha256).isprintable():
            return tenant_id, sha256
    except (ResponseError, UnicodeDecodeError):
        pass
    broker.delete(_PLACE)
    return "", ""
