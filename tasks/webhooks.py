"""deliver_webhooks: delivers events to the endpoints of all tenants. The work is in tasks/engine/webhooks/."""

from typing import Any

from celery import shared_task

from tasks.counting import count
from tasks.engine.webhooks.delivery import deliver
from tasks.registry import DELIVER_WEBHOOKS, WEBHOOKS_SECONDS
from tasks.runtime.task import EmailTask
from tasks.runtime.turn import Turn
from tasks.settings import get_settings
from tasks.storage.accounts.leases import owner_of

# A run goes on for so long while there is more to deliver; then another task does, so that other queues get a turn.
_MAX_SECONDS = 30.0


@shared_task(bind=True, base=EmailTask, name=DELIVER_WEBHOOKS, max_retries=0)
def deliver_webhooks(self: Any) -> dict[str, Any]:
    """Deliver what waits for the endpoints of all tenants. Queued by beat.

    Any number of these tasks may run at once: each endpoint is served by one of them, and one at a time takes
    endpoints; others end at once. A task that was killed leaves its endpoints to others once its claims have ended,
    after about two minutes.

    Returns `status` (success; handed_on: a fresh task goes on) and how many events were accepted (events_accepted),
    not accepted and are tried again (events_failed) or were left out for good after ten tries (events_given_up), and
    how many endpoints were disabled (webhooks_disabled).
    """
    run = owner_of(self.request.id or "local")
    turn = Turn(self.app, "webhooks", run)
    done = deliver(run, min(_MAX_SECONDS, get_settings().worker.budget_seconds), turn)
    for outcome in ("accepted", "failed", "given_up"):
        count("webhook_events", outcome, amount=getattr(done, outcome))
    if done.is_cut_short:
        self.apply_async(expires=WEBHOOKS_SECONDS)
    return {
        "status": "handed_on" if done.is_cut_short else "success",
        "events_accepted": done.accepted,
        "events_failed": done.failed,
        "events_given_up": done.given_up,
        "webhooks_disabled": done.disabled,
    }
