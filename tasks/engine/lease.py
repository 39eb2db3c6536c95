"""One run of a task on an account: the run holds the lease, and its errors are stored on the account."""

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from tasks.engine import shutdown
from tasks.engine.run import CutShortError, Progress, Run, Tally, report_to_nobody
from tasks.errors import (
    EmailError,
    InternalError,
    LeaseLostError,
    NotFoundError,
    SoftTimeLimitError,
    StorageUnavailableError,
    TooSlowError,
)
from tasks.log_fields import logged_with
from tasks.settings import get_settings
from tasks.storage.accounts.leases import LeaseInDoubtError, owner_of, release_lease, take_lease
from tasks.storage.accounts.rows import record_failure

logger = logging.getLogger(__name__)

# How often a run tries to give its lease back to a database that is away.
_TRY_AGAIN_SECONDS = 1


@contextmanager
def leased_run(
    tenant_id: str,
    user_id: str,
    account_id: str,
    task_id: str,
    deadline: float,
    *,
    is_urgent: bool = False,
    in_background: bool = False,
    patience_ends: float = math.inf,
    full_since: float | None = None,
    has_killed: bool = False,
    tally: Tally | None = None,
    report: Callable[[Progress], None] | None = None,
) -> Iterator[Run]:
    """A run of the task on the caller's account, until `deadline` (time.monotonic()).

    The other parameters are fields of Run. A run that `is_urgent`, because a person waits for it, gets the lease at
    the next batch of a run that is not urgent; a run `in_background` gives the lease to any other run. At the soft
    time limit a run ends in CutShortError if it stored or applied anything. A run that did nothing ends in
    TooSlowError, as it would be handed on for ever.

    Raises LeaseHeldError while another run has the lease, HostBusyError, NotFoundError for an account that is not the
    caller's, and AccountPausedError, AccountSwitchedOffError and LoginDelayedError. The last three are not stored as
    errors of the account, whose row has these states already.
    """
    settings = get_settings().sync
    owner = owner_of(task_id, in_background=in_background)
    try:
        account = take_lease(tenant_id, user_id, account_id, owner, settings.lease_seconds, is_urgent=is_urgent)
    except LeaseInDoubtError:
        _give_back(tenant_id, account_id, owner, settings.lease_seconds)
        raise
    tally = tally or Tally()
    run = Run(
        account,
        owner,
        settings,
        deadline,
        patience_ends,
        full_since,
        has_killed=has_killed,
        tally=tally,
        progress=Progress(messages_synced=tally.total("synced")),
        report=report or report_to_nobody,
        is_urgent=is_urgent,
        in_background=in_background,
    )
    with logged_with(account=account_id), _leased(run):
        yield run


@contextmanager
def _leased(run: Run) -> Iterator[None]:
    """Stores errors on the account, and gives the lease back in any case."""
    try:
        with _ended_by_its_time(run):
            yield
    except (CutShortError, LeaseLostError, NotFoundError):
        raise
    except EmailError as error:
        with _if_storage_lets_us():
            record_failure(run.account, error)
        raise
    except Exception as error:
        with _if_storage_lets_us():
            record_failure(run.account, InternalError(type(error).__name__))
        raise
    finally:
        _give_back(run.account.tenant_id, run.account.id, run.lease_owner, run.settings.lease_seconds)


def _give_back(tenant_id: str, account_id: str, owner: str, seconds: float) -> None:
    """Give a lease back that expires in so many seconds.

    If the database is away, wait for it that long: the retry of this very task would wait for the lease otherwise. In
    a failover that is most of the time until the account is at work again.
    """
    expires = time.monotonic() + seconds
    with suppress(SoftTimeLimitError), _if_storage_lets_us():
        while True:
            try:
                release_lease(tenant_id, account_id, owner)
            except StorageUnavailableError:
                if time.monotonic() + _TRY_AGAIN_SECONDS > expires or shutdown.is_requested():
                    raise
                time.sleep(_TRY_AGAIN_SECONDS)
            else:
                return


@contextmanager
def _ended_by_its_time(run: Run) -> Iterator[None]:
    try:
        yield
    except SoftTimeLimitError as late:
        if run.has_moved:
            raise CutShortError from late
        raise TooSlowError from late


@contextmanager
def _if_storage_lets_us() -> Iterator[None]:
    # Without PostgreSQL nothing can be stored. The lease expires by itself, and the first error is the one to raise.
    try:
        yield
    except StorageUnavailableError as error:
        logger.warning("could not note the end of a run: %s", error)
