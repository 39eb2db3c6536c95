"""periodic_sync: queues a sync for each account that is due. Beat runs it."""

import logging
from typing import Any

from celery import shared_task
from kombu.exceptions import OperationalError

from tasks.base import EmailTask
from tasks.settings import get_settings
from tasks.storage.accounts import DueAccount, claim_due_accounts
from tasks.sync import sync_emails

logger = logging.getLogger(__name__)

_ACCOUNTS_PER_CLAIM = 1000
PERIODIC_SYNC = "email_service.tasks.periodic_sync"


@shared_task(bind=True, base=EmailTask, name=PERIODIC_SYNC, max_retries=1)
def periodic_sync(self: Any) -> dict[str, Any]:  # noqa: ARG001  # bound, so that it can be retried like the others
    """Queue `sync_emails` once for each due account of all tenants.

    Returns `status`, accounts_synced (queued), accounts_failed (could not be queued; they are due again once their
    claim is over) and task_ids.
    """
    queue_seconds = get_settings().sync.interval_seconds
    task_ids: list[str] = []
    failed = 0
    while accounts := list(claim_due_accounts(_ACCOUNTS_PER_CLAIM, queue_seconds)):
        for account in accounts:
            try:
                task_ids.append(_queue(account, queue_seconds))
            except OperationalError as error:
                failed += 1
                logger.warning("could not queue a sync: %s", error, extra={"account": account.email_client_id})
    return {
        "status": "success" if not failed else "partial",
        "accounts_synced": len(task_ids),
        "accounts_failed": failed,
        "task_ids": task_ids,
    }


def _queue(account: DueAccount, expires: int) -> str:
    # A sync that waited longer than its claim is dropped: the account has been claimed anew by then.
    queued = sync_emails.apply_async((account.email_client_id, account.tenant_id, account.user_id), expires=expires)
    return str(queued.id)
