"""Stores batches as they become ready, whatever protocol they come by, and counts how often one breaks off."""

import logging
import time
from collections.abc import Callable, Generator
from contextlib import closing

from sqlalchemy.exc import DBAPIError

from tasks.engine.run import CutShortError, FolderTally, Run
from tasks.engine.sync.batches import BrokenOffError
from tasks.engine.sync.prefetch import Prefetch
from tasks.errors import TooSlowError
from tasks.storage.messages.arrivals import Quarantined
from tasks.storage.messages.batch import Batch, Numbering, store_batch
from tasks.storage.messages.folders import Folder, change_folder, load_folder
from tasks.storage.session import is_about_the_data

logger = logging.getLogger(__name__)

# A message that broke the connection this often in a row is set aside.
MAX_ATTEMPTS = 3

# How often to look up from waiting for a message.
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
    """Store `batches`, each in a transaction of its own; `interrupt` frees a source that waits for the server.

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
    """`batches` as they become ready, with the lease kept meanwhile; to be closed.

    A message that does not arrive while the run has patience counts as one at which the connection broke, if the run
    did nothing else: otherwise it would be begun again for ever. A run in the background gives way at any moment.

    Raises BrokenOffError and CutShortError.
    """
    is_out_of_patience = False

    def wait() -> None:
        nonlocal is_out_of_patience
        run.keep_lease()
        if run.in_background:
            run.check_deadline()
        if not is_out_of_patience and time.monotonic() >= run.patience_ends:
            # The source breaks off after what arrived before.
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
    tally.synced += len(batch.arrivals)
    tally.quarantined += len(batch.quarantined)
    done = len(batch.arrivals) + len(batch.quarantined)
    run.show(
        messages_done=run.progress.messages_done + done,
        messages_synced=run.progress.messages_synced + len(batch.arrivals),
    )


def _narrowed(batch: Batch, error: DBAPIError) -> tuple[Batch, ...]:
    """The batch in two halves, to find the message that PostgreSQL will never take; a single one is set aside."""
    if not batch.arrivals:
        raise error
    middle = len(batch.arrivals) // 2
    if middle:
        # The checkpoint moves with the second half.
        first, second = batch.arrivals[:middle], batch.arrivals[middle:]
        return Batch(first, (), 1), Batch(second, batch.quarantined, batch.uidnext)
    arrival = batch.arrivals[0]
    detail = f"PostgreSQL refuses it: SQLSTATE {getattr(error.orig, 'pgcode', None)}"
    logger.error("message cannot be stored", extra={"uid": arrival.uid, "detail": detail})
    refused = Quarantined(arrival.uid, "unstorable", detail, arrival.size, arrival.raw)
    return (Batch((), (*batch.quarantined, refused), batch.uidnext),)


def _remember_failure(
    run: Run, folder: Folder, numbering: Numbering, failure: BrokenOffError, tally: FolderTally
) -> None:
    """Count how often in a row the connection broke at the same message; at last that one is set aside."""
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
