"""Stores batches as they become ready, for IMAP and POP3, and counts how often the connection broke at a message."""

import logging
import time
from collections.abc import Callable, Generator
from contextlib import closing

from sqlalchemy.exc import DBAPIError

from tasks.counting import count
from tasks.engine.run import CutShortError, FolderTally, Run
from tasks.engine.sync.batches import BrokenOffError
from tasks.engine.sync.prefetch import Prefetch
from tasks.errors import TooSlowError
from tasks.storage.messages.arrivals import Quarantined
from tasks.storage.messages.batch import Batch, Numbering, store_batch
from tasks.storage.messages.folders import Folder, change_folder, load_folder
from tasks.storage.session import is_about_the_data

logger = logging.getLogger(__name__)

# A message at which the connection broke this often in a row goes into quarantine.
MAX_ATTEMPTS = 3

# How often a wait for a message is interrupted to look at lease and time.
_LOOK_UP_SECONDS = 0.2


def store_arriving(
    run: Run,
    folder: Folder,
    numbering: Numbering,
    batches: Generator[Batch],
    tally: FolderTally,
    *,
    interrupt: Callable[[], None],
) -> None:
    """Store `batches`, each in a transaction of its own. `interrupt` ends the wait of a source for the server.

    Raises CutShortError after a batch when the time is used up, and the transient errors of server and storage.
    """
    try:
        with closing(arriving(run, folder, batches, interrupt=interrupt)) as stream:
            for batch in stream:
                _store(run, folder, numbering, batch, tally)
                run.check_deadline()
    except BrokenOffError as failure:
        _remember_failure(run, folder, numbering, failure, tally)
        raise failure.error from failure


def arriving(
    run: Run, folder: Folder, batches: Generator[Batch], *, interrupt: Callable[[], None]
) -> Generator[Batch]:
    """Yield `batches` as they become ready, and renew the lease meanwhile. The caller has to close this.

    If a message has not arrived when `patience_ends` and the run did nothing else, the connection counts as broken at
    this message: otherwise runs would wait for it again and again. A run in the background ends at any moment when
    another run wants the account.

    Raises BrokenOffError and CutShortError.
    """
    is_out_of_patience = False

    def wait() -> None:
        nonlocal is_out_of_patience
        run.keep_lease()
        if run.in_background:
            run.check_deadline()
        if not is_out_of_patience and time.monotonic() >= run.patience_ends:
            # The source raises after it has given what arrived before.
            is_out_of_patience = True
            interrupt()

    try:
        with Prefetch(batches, interrupt=interrupt, idle=wait, idle_seconds=_LOOK_UP_SECONDS) as prefetch:
            yield from prefetch
    except BrokenOffError as failure:
        if is_out_of_patience:
            if run.has_moved:
                raise CutShortError from failure
            failure.error = TooSlowError(f"message {failure.uid} of {folder.name}")
        raise


def _store(run: Run, folder: Folder, numbering: Numbering, batch: Batch, tally: FolderTally) -> None:
    try:
        with run.transaction() as connection:
            store_batch(connection, run.account, folder.id, numbering, batch)
    except DBAPIError as error:
        if not is_about_the_data(error):
            raise
        for smaller in _narrowed(batch, error):
            _store(run, folder, numbering, smaller, tally)
        return
    count("sync", "bytes", amount=sum(arrival.size for arrival in batch.arrivals))
    tally.synced += len(batch.arrivals)
    tally.quarantined += len(batch.quarantined)
    done = len(batch.arrivals) + len(batch.quarantined)
    run.show(
        messages_done=run.progress.messages_done + done,
        messages_synced=run.progress.messages_synced + len(batch.arrivals),
    )


def _narrowed(batch: Batch, error: DBAPIError) -> tuple[Batch, ...]:
    """The batch in two halves, to find the message that PostgreSQL refuses. A single message goes into quarantine."""
    if not batch.arrivals:
        raise error
    middle = len(batch.arrivals) // 2
    if middle:
        # Only the second half moves the checkpoint.
        first, second = batch.arrivals[:middle], batch.arrivals[middle:]
        return Batch(first, (), 1), Batch(second, batch.quarantined, batch.uidnext)
    arrival = batch.arrivals[0]
    detail = f"PostgreSQL refuses it: SQLSTATE {getattr(error.orig, 'pgcode', None)}"
    logger.error("a message cannot be stored: %s", detail, extra={"uid": arrival.uid})
    refused = Quarantined(arrival.uid, "unstorable", detail, arrival.size, arrival.raw)
    return (Batch((), (*batch.quarantined, refused), batch.uidnext),)


def _remember_failure(
    run: Run, folder: Folder, numbering: Numbering, failure: BrokenOffError, tally: FolderTally
) -> None:
    """Count how often in a row the connection broke at the same message.

    After MAX_ATTEMPTS the message goes into quarantine.
    """
    with run.transaction() as connection:
        current = load_folder(connection, run.account, folder.id)
        suspect = numbering.suspect(failure.uid)
        is_the_same = all(getattr(current, column) == value for column, value in suspect.items())
        attempts = current.suspect_attempts + 1 if is_the_same else 1
        if attempts < MAX_ATTEMPTS:
            change_folder(connection, run.account, folder.id, {**suspect, "suspect_attempts": attempts})
            return
        refused = Quarantined(failure.uid, "undeliverable", str(failure.error), 0, None)
        store_batch(connection, run.account, folder.id, numbering, Batch((), (refused,), 1))
        change_folder(connection, run.account, folder.id, {**dict.fromkeys(suspect), "suspect_attempts": 0})
    tally.quarantined += 1
