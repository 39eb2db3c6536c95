"""periodic_sync: queues a sync for each account that is due. Beat runs it."""

import logging
import time
from collections import Counter
from contextlib import closing
from typing import Any

from celery import shared_task
from kombu.exceptions import OperationalError

from tasks.registry import PERIODIC_SYNC
from tasks.runtime.publish import publish_many
from tasks.runtime.task import EmailTask
from tasks.settings import get_settings
from tasks.storage.accounts.dispatch import DueAccount, claim_due_accounts, unclaim_accounts
from tasks.storage.accounts.watches import release_dead_watchers
from tasks.sync import POLL, sync_emails

logger = logging.getLogger(__name__)

_ACCOUNTS_PER_CLAIM = 5000
# The share of the interval that a claim lasts: it ends before the next run of `periodic_sync` looks for due accounts.
_CLAIM_SHARE = 0.9
# The seconds that a sync is assumed to take, to work out how many accounts of a limited mail server can be synced
# within an interval. A sync without changes takes less.
_SECONDS_PER_SYNC = 1
# The result is kept in Redis and read by people, so it does not list the ids of a million tasks.
_MAX_TASK_IDS = 1000


@shared_task(bind=True, base=EmailTask, name=PERIODIC_SYNC, max_retries=1)
def periodic_sync(self: Any) -> dict[str, Any]:
    """Queue `sync_emails` once for each due account of all tenants.

    Returns `status` (success; partial where the broker did not take all tasks, or where time ran out and a fresh task
    goes on), accounts_synced (how many were queued), accounts_failed (could not be queued and are due again at once),
    accounts_deferred (their mail server is busy) and task_ids (of the first 1,000).
    """
    release_dead_watchers()
    round_ = _Round(get_settings().sync.interval_seconds)
    deadline = time.monotonic() + get_settings().worker.budget_seconds
    with closing(claim_due_accounts(_ACCOUNTS_PER_CLAIM, round_.claim_seconds)) as claims:
        for accounts in claims:
            round_.queue(accounts)
            if round_.failed:
                break  # the broker refuses tasks: accounts that are not claimed stay due
            if time.monotonic() > deadline:
                round_.is_cut_short = True
                break
    if round_.is_cut_short:
        self.apply_async()
    return round_.result()


class _Round:
    """One run of `periodic_sync`."""

    def __init__(self, interval_seconds: int) -> None:
        self.claim_seconds = int(interval_seconds * _CLAIM_SHARE)
        self.slots = max(interval_seconds // _SECONDS_PER_SYNC, 1)
        self.per_host: Counter[str] = Counter()
        self.queued = self.failed = self.deferred = 0
        self.task_ids: list[str] = []
        self.is_cut_short = False

    def queue(self, accounts: list[DueAccount]) -> None:
        """Queue the syncs of claimed accounts, and give up the claims on accounts whose sync cannot be queued."""
        taken: list[DueAccount] = []
        waiting: list[DueAccount] = []
        for account in accounts:
            (taken if self._host_has_room(account.hostname) else waiting).append(account)
        if waiting:
            self.deferred += len(waiting)
            # Deferred accounts are due in the next run, not in this
            # one, and before the accounts that were queued now.
            unclaim_accounts(waiting, self.claim_seconds // 2)
        calls = [(account.email_client_id, account.tenant_id, account.user_id) for account in taken]
        try:
            # A sync that waited longer than its claim expires,
            # because the account may have been claimed again by then.
            ids = publish_many(sync_emails, calls, expires=self.claim_seconds, headers={POLL: True})
        except OperationalError as error:
            logger.warning("could not queue %s syncs: %s", len(taken), error)
            self.failed += len(taken)
            unclaim_accounts(taken)
            return
        self.queued += len(ids)
        self.task_ids += ids[: _MAX_TASK_IDS - len(self.task_ids)]

    def result(self) -> dict[str, Any]:
        return {
            "status": "partial" if self.failed or self.is_cut_short else "success",
            "accounts_synced": self.queued,
            "accounts_failed": self.failed,
            "accounts_deferred": self.deferred,
            "task_ids": self.task_ids,
        }

    def _host_has_room(self, hostname: str) -> bool:
        limit = get_settings().mail.connections_to(hostname)
        if not limit:
            return True
        self.per_host[hostname] += 1
        return self.per_host[hostname] <= limit * self.slots
