"""One sync of an account, by the protocol that its server speaks."""

import logging
import time
from collections.abc import Callable
from typing import NamedTuple

from tasks.engine.connect import connected, connected_pop3
from tasks.engine.lease import leased_run
from tasks.engine.run import CutShortError, Progress, Run, Tally
from tasks.engine.sync.mailbox import sync_mailbox
from tasks.engine.sync.maildrop import sync_maildrop
from tasks.errors import FoldersFailedError, MailboxIncompleteError, TokenExpiredError
from tasks.mail.kinds import MailProtocol
from tasks.storage.accounts.rows import record_incomplete, record_success
from tasks.storage.messages.completeness import incomplete_folders

logger = logging.getLogger(__name__)

_MAX_COMPLAINT_LENGTH = 500

# A run waits for a message until this many times its budget.
# What has arrived by then is stored before the soft time limit.
_PATIENCE = 1.5


class SyncRequest(NamedTuple):
    """Which account to sync: all its folders, or one.

    With `full_since` (Unix time by PostgreSQL's clock), each folder that was not fully compared since that time gets
    a full sync. If an earlier run `has_killed` its worker, a process of its own parses, so that a message that kills
    the parser goes into quarantine.
    """

    email_client_id: str
    tenant_id: str
    user_id: str
    folder_id: str | None = None
    full_since: float | None = None
    has_killed: bool = False


def sync_account(
    request: SyncRequest, task_id: str, tally: Tally, budget_seconds: float, report: Callable[[Progress], None]
) -> bool:
    """Sync for about `budget_seconds` at most, and add what was done to `tally`.

    Returns whether the sync is complete.

    Raises LeaseHeldError while another run has the lease, NotFoundError for an account or folder that is not the
    caller's, and the errors of server and storage, which are stored on the account as well.
    """
    started = time.monotonic()
    try:
        with leased_run(
            request.tenant_id,
            request.user_id,
            request.email_client_id,
            task_id,
            deadline=started + budget_seconds,
            patience_ends=started + budget_seconds * _PATIENCE,
            full_since=request.full_since,
            has_killed=request.has_killed,
            tally=tally,
            report=report,
        ) as run:
            try:
                _sync(run, request.folder_id)
            except TokenExpiredError:
                # All that was done is committed: the next session goes on from there, with a fresh token.
                run.check_deadline()
                _sync(run, request.folder_id)
    except CutShortError:
        return False
    return True


def _sync(run: Run, folder_id: str | None) -> None:
    started = time.monotonic()
    if run.account.protocol == MailProtocol.POP3:
        with run.tally.counted(), connected_pop3(run.account) as pop3:
            run.tally.connect_seconds += time.monotonic() - started
            sync_maildrop(run, pop3, folder_id)
    else:
        with run.tally.counted(), connected(run.account) as imap:
            run.tally.connect_seconds += time.monotonic() - started
            sync_mailbox(run, imap, folder_id)
    tally = run.tally
    # This commit waits for the disk, and so makes all batches before it durable. The task is acknowledged afterwards.
    with run.transaction(durable=True) as connection:
        incomplete = incomplete_folders(connection, run.account)
        words = [f"{folder.name}: {folder.why}" for folder in incomplete]
        failed = [f"{name}: {why}" for name, why in tally.failed_folders.items()]
        error = FoldersFailedError(_shortened([*failed, *words])) if failed else None
        record_success(connection, run.account, whole_account=folder_id is None, failed=error)
        if incomplete and not error:
            record_incomplete(connection, run.account, MailboxIncompleteError(_shortened(words)))
    tally.incomplete = [folder for folder in incomplete if folder_id in (None, folder.folder_id)]
    if incomplete:
        logger.warning("%d messages are missing", sum(folder.missing for folder in incomplete))


def _shortened(complaints: list[str]) -> str:
    return "; ".join(complaints)[:_MAX_COMPLAINT_LENGTH]
