"""reread_messages: reads stored messages again that an older parser read. The work is in tasks/engine/reread.py.

Messages are chosen by `./manage.sh reread`, and also by the task itself once its parser is newer, unless
REREAD_AUTOMATICALLY is false. A task that is run again after it was killed at any instant goes on with what is left.
"""

import logging
import time
from typing import Any

from celery import shared_task
from kombu.exceptions import OperationalError

from tasks.engine.reread import Reread, RereadRequest, reread_account
from tasks.errors import HostBusyError, LeaseHeldError, LeaseLostError, TransientError
from tasks.registry import QUEUE_REREADING, REREAD_MESSAGES, REREADING_SECONDS
from tasks.runtime.broker.queues import is_served_last
from tasks.runtime.control import get_queue_stats
from tasks.runtime.publish import publish_many
from tasks.runtime.task import EmailTask
from tasks.settings import get_settings
from tasks.spam import queue_engines
from tasks.storage.accounts.leases import OwnLeaseHeldError
from tasks.storage.messages.rereading import accounts_to_reread

logger = logging.getLogger(__name__)


# How often a redelivered task looks whether the lease of its own killed run has expired.
_LOOK_AGAIN_SECONDS = 5
_BUSY_SECONDS = 30
_ACCOUNTS_AT_A_TIME = 1000


@shared_task(bind=True, base=EmailTask, name=REREAD_MESSAGES, max_retries=0)
def reread_messages(self: Any, email_client_id: str, tenant_id: str, user_id: str) -> dict[str, Any]:
    """Read the waiting messages of an account again, as many as its hourly limits allow.

    Returns `status` (success: nothing more for now; handed_on: a fresh task goes on; busy: another run is at work on
    the account or its server is busy; interrupted: by a transient error, which `detail` names) and how many messages
    were read again (messages_read), are gone from the server (messages_gone), have another message's UID
    (messages_other), cannot be read (messages_unreadable) and had to be left for later (messages_left).

    Raises PermanentError subclasses, which are kept on the account.
    """
    request = RereadRequest(email_client_id, tenant_id, user_id, has_killed=self.has_killed)
    try:
        done = reread_account(request, self.request.id or "", _others_wait)
    except OwnLeaseHeldError as held:
        # The lease is of this task's own killed run: this task is its redelivery and goes on once the lease expires.
        self.snooze(held, min(held.seconds_left + 1, _LOOK_AGAIN_SECONDS))
    except (LeaseHeldError, LeaseLostError, HostBusyError) as error:
        if not self.request.called_directly:
            # Beat queues this task at the same time as the syncs,
            # which are soon over: look again until the task expires.
            self.snooze(error, _BUSY_SECONDS)
        return _result("busy", Reread(), str(error))
    except TransientError as error:
        logger.warning("reading again was interrupted: %s", error)
        return _result("interrupted", Reread(), str(error))
    if done.read:
        queue_engines(email_client_id, tenant_id, user_id)
    if done.is_done:
        return _result("success", done)
    reread_messages.apply_async((email_client_id, tenant_id, user_id), expires=REREADING_SECONDS)
    return _result("handed_on", done)


@shared_task(bind=True, base=EmailTask, name=QUEUE_REREADING, max_retries=0)
def queue_rereading(self: Any) -> dict[str, Any]:  # noqa: ARG001 - a bound task's own
    """Queue `reread_messages` for each account with messages that may be read again now. Queued by beat.

    These are accounts with chosen messages, and accounts whose messages of an older parser are still to be chosen.

    Returns `status` (success; partial where the broker did not take all tasks or time
    ran out: the next run queues the rest) and accounts (how many were queued). It
    does no harm if an account is queued twice: the second task finds nothing to do.
    """
    worker, limits, after, accounts = get_settings().worker, get_settings().reread, ("", ""), 0
    deadline = time.monotonic() + worker.budget_seconds
    if not limits.messages_per_hour:
        return {"status": "success", "accounts": 0}
    try:
        while found := accounts_to_reread(after, _ACCOUNTS_AT_A_TIME, automatically=limits.automatically):
            calls = [(account_id, tenant_id, user_id) for tenant_id, account_id, user_id in found]
            accounts += len(publish_many(reread_messages, calls, expires=REREADING_SECONDS))
            after = found[-1][:2]
            if time.monotonic() >= deadline:
                return {"status": "partial", "accounts": accounts}
    except OperationalError as error:
        logger.warning("could not queue all accounts: %s", error)
        return {"status": "partial", "accounts": accounts}
    return {"status": "success", "accounts": accounts}


def _others_wait() -> bool:
    """Whether a task of another queue waits for a worker."""
    try:
        return any(count for queue, count in get_queue_stats().items() if not is_served_last(queue))
    except OperationalError as error:
        logger.warning("the broker does not say what waits: %s", error)
        return False


def _result(status: str, done: Reread, detail: str | None = None) -> dict[str, Any]:
    counts = {f"messages_{name}": getattr(done, name) for name in ("read", "gone", "other", "unreadable", "left")}
    return {"status": status, **counts, **({"detail": detail} if detail else {})}
