"""cleanup_stale_results: removes results, leases, blobs and dead letters that nobody needs any more.

Queued hourly by beat.
"""

import time
from typing import Any

from celery import shared_task
from redis.exceptions import ResponseError

from tasks.registry import CLEANUP_STALE_RESULTS
from tasks.runtime.broker import aside, cleanup
from tasks.runtime.broker.transport import broker_client
from tasks.runtime.task import EmailTask
from tasks.settings import get_settings
from tasks.storage.cleanup import delete_old_dead_letters, delete_unreferenced_blobs, release_expired_leases

# The key with the place (tenant and SHA-256) at which the walk over all blobs goes on, if one run does not finish it.
_PLACE = "metabuilder:cleanup:blobs"


@shared_task(bind=True, base=EmailTask, name=CLEANUP_STALE_RESULTS, max_retries=0)
def cleanup_stale_results(self: Any) -> dict[str, Any]:
    """Remove old results, unread answers, expired leases, blobs without references and old dead letters.

    Returns `status` and how many of each kind were removed: results_deleted, reply_queues_deleted, leases_released,
    blobs_deleted, dead_letters_deleted.
    """
    worker = get_settings().worker
    deadline = time.monotonic() + worker.budget_seconds
    with broker_client(self.app) as broker:
        return {
            "status": "success",
            "results_deleted": cleanup.delete_old_results(self.app.backend.client, worker.result_expires),
            "reply_queues_deleted": cleanup.delete_orphaned_replies(broker),
            "leases_released": release_expired_leases(),
            "dead_letters_deleted": aside.delete_old(broker, worker.dead_letter_days * 24 * 3600)
            + _delete_dead_letters(worker.dead_letter_days, deadline),
            "blobs_deleted": _delete_blobs(broker, deadline),
        }


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
    """The place at which the last run stopped; the beginning where the stored place cannot be read."""
    try:
        place = broker.hgetall(_PLACE)
        return place.get(b"tenant_id", b"").decode(), place.get(b"sha256", b"").decode()
    except (ResponseError, UnicodeDecodeError):
        broker.delete(_PLACE)
        return "", ""
