"""sync_emails: brings a mailbox into PostgreSQL. The work is in tasks/engine/.

A sync that spends its time budget hands on: the same task, under the same id, is queued again and goes on at the
checkpoint, so a caller that waits for the id gets the result of the whole sync. The redelivery of a task that was
killed at any instant goes on in the same way. The counts of earlier runs travel in a header of the task message.
"""

import inspect
import logging
import random
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from celery import shared_task

from tasks.counting import count
from tasks.engine.run import Progress, Tally
from tasks.engine.sync.account import SyncRequest, sync_account
from tasks.errors import (
    HostBusyError,
    LeaseHeldError,
    LoginDelayedError,
    PoisonedTaskError,
    SoftTimeLimitError,
    TransientError,
)
from tasks.registry import SYNC_EMAILS
from tasks.runtime.task import EmailTask
from tasks.settings import get_settings
from tasks.spam import queue_engines
from tasks.storage.accounts.leases import OwnLeaseHeldError
from tasks.storage.accounts.rows import get_account, record_failure
from tasks.storage.accounts.watches import was_watched
from tasks.storage.session import database_now, tenant_transaction

logger = logging.getLogger(__name__)

# How often, in seconds, a sync that finds another sync at work on its account looks again. If the lease is still held
# when the looks have taken as long as a lease lasts, a living run is renewing it, and this sync has nothing to do.
_LEASE_LOOK_SECONDS = 5
# After at most this many seconds a sync tries again a mail server that has all the connections it may have.
_HOST_LOOK_SECONDS = 15
_REPORT_SECONDS = 0.5
_HEADER = "metabuilder_sync"
# A header of the syncs that the schedule queues. If one finds mail in a mailbox that was watched for so many seconds
# before it began, the watcher missed something.
POLL = "metabuilder_poll"
_WATCHED_BEFORE_SECONDS = 60


class SyncTask(EmailTask):
    """A task that notes on its account when it is poisoned and will not run any more."""

    abstract = True

    def quarantined(self, error: PoisonedTaskError, *args: Any, **kwargs: Any) -> None:
        given = inspect.signature(self.run).bind(*args, **kwargs).arguments
        with tenant_transaction(given["tenant_id"]) as connection:
            account = get_account(connection, given["tenant_id"], given["user_id"], given["email_client_id"])
        record_failure(account, error)


@shared_task(bind=True, base=SyncTask, name=SYNC_EMAILS, max_retries=5, default_retry_delay=10)
def sync_emails(
    self: Any,
    email_client_id: str,
    tenant_id: str,
    user_id: str,
    folder_id: str | None = None,
    force_full_sync: bool = False,  # the signature callers know
) -> dict[str, Any]:
    """Sync an account's folders, or one of them, into PostgreSQL.

    By default a sync asks the server for changes only; `force_full_sync` compares every UID and flag with the server
    and tries messages in quarantine again. Returns `status` (success, partial where a folder could not be opened or
    messages are missing, already_running), messages_synced, messages_updated, messages_deleted, messages_quarantined,
    sync_duration_seconds, connect_seconds (how much of the duration passed until the login), timestamp (ms), folders,
    failed_folders, messages_missing and incomplete_folders.

    Raises PermanentError subclasses, which are kept on the account and not retried; TransientError subclasses once
    retries are used up.
    """
    so_far = _SoFar(self.request.get(_HEADER), force_full_sync=force_full_sync)
    before = so_far.stored
    request = SyncRequest(
        email_client_id, tenant_id, user_id, folder_id, so_far.full_since, has_killed=self.has_killed
    )
    try:
        is_done = sync_account(
            request,
            self.request.id or "",
            so_far.tally,
            get_settings().worker.budget_seconds,
            _reporter(self, before),
        )
    except LeaseHeldError as held:
        if isinstance(held, OwnLeaseHeldError):
            # The lease is of this task's own killed run: this task is its redelivery and has to finish the sync.
            so_far.looks = 0
        elif so_far.looks * _LEASE_LOOK_SECONDS > get_settings().sync.lease_seconds:
            return so_far.result("already_running")
        so_far.looks += 1
        self.snooze(held, min(held.seconds_left + 1, _LEASE_LOOK_SECONDS), **so_far.options())
    except HostBusyError as busy:
        self.snooze(busy, random.uniform(1, _HOST_LOOK_SECONDS), headers=so_far.options()["headers"])
    except LoginDelayedError:
        raise  # the schedule queues a sync when the next login is due
    except (SoftTimeLimitError, TransientError) as error:
        logger.warning("sync interrupted: %s", error)
        if so_far.stored > before:
            # The sync made progress, so its retries are counted from
            # zero again, and a flaky server never uses them up.
            self.request.retries = 0
        raise self.retry(exc=error, countdown=self.retry_delay(why=error), **so_far.options()) from error
    if not is_done:
        fresh = self.signature_from_request(retries=0, **so_far.options())
        del fresh.options["chord"]  # `replace` refuses a given chord and sets the request's own
        self.replace(fresh)
    if so_far.stored:
        _count_missed(self.request, tenant_id, email_client_id, so_far.seconds)
        queue_engines(email_client_id, tenant_id, user_id)
    is_partial = so_far.tally.failed_folders or so_far.tally.incomplete
    return so_far.result("partial" if is_partial else "success")


def _count_missed(request: Any, tenant_id: str, email_client_id: str, seconds: float) -> None:
    """Count that a sync of so many `seconds` found mail, if it was a poll and the mailbox was watched before it: the
    watcher had not been told, or not yet."""
    if request.get(POLL) and was_watched(tenant_id, email_client_id, seconds + _WATCHED_BEFORE_SECONDS):
        count("watch", "missed")


class _SoFar:
    """What earlier runs of the same sync did, and when the sync began."""

    def __init__(self, header: dict[str, Any] | None, *, force_full_sync: bool) -> None:
        self.started: float = header["started"] if header else time.time()  # read by workers of the release before
        self._seconds: float = header.get("seconds", 0) if header else 0  # of earlier runs
        self._begun = time.monotonic()
        # By PostgreSQL's clock, like the times in the rows that it is compared with.
        self.full_since: float | None = None
        if force_full_sync:
            self.full_since = header.get("full_since", self.started) if header else database_now().timestamp()
        self.tally = Tally.from_json(header["tally"]) if header else Tally()
        self.tally.compared = header.get("compared", {}) if header else {}
        # How often this sync found another sync at work on the account.
        self.looks: int = header.get("looks", 0) if header else 0

    @property
    def stored(self) -> int:
        return self.tally.total("synced")

    def options(self) -> dict[str, Any]:
        """Options for the task message of the next run.

        They have no expiry: only a sync that has not begun expires.
        """
        return {"headers": {_HEADER: self._header()}, "expires": None}

    def _header(self) -> dict[str, Any]:
        return {
            "started": self.started,
            "seconds": self.seconds,
            "full_since": self.full_since,
            "tally": self.tally.to_json(),
            "looks": self.looks,
            "compared": self.tally.compared,
        }

    def result(self, status: str) -> dict[str, Any]:
        tally = self.tally
        return {
            "status": status,
            "messages_synced": tally.total("synced"),
            "messages_updated": tally.total("updated"),
            "messages_deleted": tally.total("deleted") + tally.deleted_with_folders,
            "messages_quarantined": tally.total("quarantined"),
            "sync_duration_seconds": round(self.seconds, 3),
            "connect_seconds": round(tally.connect_seconds, 3),
            "timestamp": int(time.time() * 1000),
            "folders": {name: asdict(folder) for name, folder in tally.folders.items()},
            "failed_folders": tally.failed_folders,
            "messages_missing": sum(folder.missing for folder in tally.incomplete),
            "incomplete_folders": {folder.name: folder.why for folder in tally.incomplete},
        }

    @property
    def seconds(self) -> float:
        """How long the sync has taken until now, over all its runs."""
        return self._seconds + time.monotonic() - self._begun


def _reporter(task: Any, stored_before: int) -> Callable[[Progress], None]:
    """A function that stores progress in the task's state, not too often.

    Errors of the result store do not fail the sync.
    """
    next_report = 0.0
    moves = False

    def report(progress: Progress) -> None:
        nonlocal next_report, moves
        if not moves and progress.messages_synced > stored_before:
            moves = True
            task.made_progress()
        if task.request.is_eager or not task.request.id or time.monotonic() < next_report:
            return
        try:
            task.update_state(state="PROGRESS", meta=asdict(progress))
        except SoftTimeLimitError:
            raise
        except Exception as error:  # of any kind that the result store raises
            logger.warning("progress could not be shown: %s", error)
        next_report = time.monotonic() + _REPORT_SECONDS

    return report
