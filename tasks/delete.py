"""delete_emails, empty_trash and enforce_trash_retention: move messages to Trash, delete them for good, and delete
what has been in Trash for too long. The work is in tasks/engine/delete/.

A task that is run again after it was killed at any instant finds
on the server and in the table `deletion` what is already done.
"""

import time
from typing import Any, NoReturn

from celery import shared_task
from kombu.exceptions import OperationalError

from tasks.engine.delete.messages import DeleteRequest, delete_expired, delete_messages
from tasks.engine.run import CutShortError
from tasks.errors import HostBusyError, LeaseHeldError, SoftTimeLimitError, TransientError
from tasks.registry import DELETE_EMAILS, EMPTY_TRASH, ENFORCE_TRASH_RETENTION
from tasks.runtime.publish import publish_many
from tasks.runtime.task import EmailTask
from tasks.settings import get_settings
from tasks.storage.messages.deletions import accounts_with_expired_trash

# How soon the task looks again for the lease while a sync is at work on the account.
_LOOK_SECONDS = 2
_ACCOUNTS_AT_A_TIME = 1000
# A task that has waited for a day expires; the daily run queues a new one.
_EXPIRES_SECONDS = 24 * 3600


@shared_task(bind=True, base=EmailTask, name=DELETE_EMAILS, max_retries=2, default_retry_delay=5)
def delete_emails(
    self: Any,
    email_ids: list[str],
    tenant_id: str,
    user_id: str,
    permanent: bool = False,  # the signature callers know
) -> dict[str, Any]:
    """Move messages to Trash, on their server and here; or delete them for good.

    Returns `status`, deleted_count (messages that are in Trash or gone now) and marked_count: messages that could
    only be marked as deleted because their server has neither MOVE nor UIDPLUS, or that may still be in Gmail's
    Trash. If there are any, `status` is partial.

    Raises NotFoundError where not all messages are the caller's; in that case no message is deleted. Raises
    PermanentError subclasses, which are not retried, and TransientError subclasses once retries are used up.
    """
    request = DeleteRequest(tenant_id, user_id, email_ids, permanent)
    key = self._key((email_ids, tenant_id, user_id, permanent), {})
    try:
        marked = delete_messages(
            request, self.request.id or "", key, get_settings().worker.budget_seconds, lambda _: self.made_progress()
        )
    except (CutShortError, SoftTimeLimitError, TransientError) as interruption:
        _go_on_later(self, interruption)
    return {
        "status": "partial" if marked else "success",
        "deleted_count": len(set(email_ids)) - marked,
        "marked_count": marked,
    }


@shared_task(bind=True, base=EmailTask, name=EMPTY_TRASH, max_retries=2, default_retry_delay=5)
def empty_trash(self: Any, email_client_id: str, tenant_id: str, user_id: str) -> dict[str, Any]:
    """Delete for good the messages that have been in the account's Trash for longer than TRASH_RETENTION_DAYS.

    Returns `status` and deleted_count (of the last run only). Raises the same errors as delete_emails.
    """
    deadline = time.monotonic() + get_settings().worker.budget_seconds
    deleted = 0
    try:
        while batch := delete_expired(
            tenant_id, user_id, email_client_id, self.request.id or "", deadline - time.monotonic()
        ):
            deleted += batch
            self.made_progress()
            if time.monotonic() >= deadline:
                raise CutShortError
    except (CutShortError, SoftTimeLimitError, TransientError) as interruption:
        if deleted:
            # The task made progress, so its retries are counted from zero again.
            self.request.retries = 0
        _go_on_later(self, interruption)
    return {"status": "success", "deleted_count": deleted}


@shared_task(bind=True, base=EmailTask, name=ENFORCE_TRASH_RETENTION, max_retries=1)
def enforce_trash_retention(self: Any, after_tenant_id: str = "", after_account_id: str = "") -> dict[str, Any]:
    """Queue `empty_trash` for each account with messages that
    have been in Trash for longer than TRASH_RETENTION_DAYS.

    Accounts are looked at in the order of their ids, from the first account after the given one; when the time budget
    is spent, a fresh task goes on from there. Returns `status` (success; partial where time ran out) and accounts
    (how many were queued). It does no harm if an account is queued twice: the second task finds nothing to do.
    """
    days = get_settings().delete.trash_retention_days
    deadline = time.monotonic() + get_settings().worker.budget_seconds
    after = (after_tenant_id, after_account_id)
    accounts = 0
    try:
        while days and (found := accounts_with_expired_trash(days, after, _ACCOUNTS_AT_A_TIME)):
            calls = [(account_id, tenant_id, user_id) for tenant_id, account_id, user_id in found]
            accounts += len(publish_many(empty_trash, calls, expires=_EXPIRES_SECONDS))
            after = found[-1][:2]
            if time.monotonic() >= deadline:
                self.apply_async(after, expires=_EXPIRES_SECONDS)
                return {"status": "partial", "accounts": accounts}
    except (OperationalError, TransientError) as error:
        raise self.retry(args=after, kwargs={}, exc=error, countdown=self.retry_delay()) from error
    return {"status": "success", "accounts": accounts}


def _go_on_later(task: Any, interruption: Exception) -> NoReturn:
    """Queue the same task again; it goes on with what is left.

    Only errors of servers and storage count as retries.
    """
    if isinstance(interruption, LeaseHeldError | HostBusyError):
        task.snooze(interruption, _LOOK_SECONDS)
    if isinstance(interruption, CutShortError):
        task.reschedule(interruption)
    raise task.retry(exc=interruption, countdown=task.retry_delay(why=interruption)) from interruption
