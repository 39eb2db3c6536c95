"""Brings one folder of ours in line with the server's.

State machine, by UIDVALIDITY, UIDNEXT and HIGHESTMODSEQ (RFC 9051 section 2.3.1, RFC 7162):

    the server's state is the one we know  ->  nothing to do, the folder is not even opened
    UIDVALIDITY unknown                    ->  begin: remember it and HIGHESTMODSEQ, checkpoint at UID 1
    UIDVALIDITY differs                    ->  renumber: give the messages we have their new UIDs
    same UIDVALIDITY                       ->  apply flags and removals, then fetch what is missing

HIGHESTMODSEQ is the one of the moment the folder was opened, and is remembered only when all is done: what changed
in between is asked for again next time, and applying a change twice changes nothing. Each batch of messages and its
checkpoint (`uidnext`) are one transaction; what is fetched is what the server has and we have not, so a run that was
killed anywhere is simply continued.
"""

import time

from sqlalchemy import func

from tasks.engine.changes import apply_changes, compare_all, compare_uids, renumber
from tasks.engine.fetch import fetch_batches
from tasks.engine.intake import take_in
from tasks.engine.run import FolderTally, Run
from tasks.mail.imap import ImapConnection
from tasks.mail.imap_responses import FolderStatus
from tasks.mail.imap_session import FetchRefusedError
from tasks.mail.uidset import UidSet
from tasks.storage import changes
from tasks.storage.folders import Folder, change_folder, load_folder
from tasks.storage.messages import UidNumbering


def sync_folder(run: Run, imap: ImapConnection, folder: Folder, status: FolderStatus | None) -> None:
    """Sync one folder. `status` is what LIST said of it, where it did.

    Raises HandOnError when the time of the run is used up, and the transient errors of server and storage.
    """
    full = run.full_since is not None and not folder.is_verified
    if status and not full and _is_unchanged(folder, status):
        return
    tally = run.tally.of(folder.name)
    started = time.monotonic()
    try:
        _sync(run, imap, folder, tally, full=full)
    finally:
        tally.seconds += time.monotonic() - started


def _is_unchanged(folder: Folder, status: FolderStatus) -> bool:
    # Without CONDSTORE nothing tells that no flag changed.
    return (
        status.highestmodseq is not None
        and status.highestmodseq == folder.highestmodseq
        and status.uidvalidity == folder.uidvalidity
        and status.uidnext == folder.uidnext
        and status.messages == folder.total_count + folder.quarantined_count
    )


def _sync(run: Run, imap: ImapConnection, folder: Folder, tally: FolderTally, *, full: bool) -> None:
    opened = imap.select(folder.path)
    if not opened.uidvalidity and folder.uidvalidity:
        raise FetchRefusedError("the server gives no UIDVALIDITY")
    if folder.uidvalidity is None:
        folder = _begin(run, folder, opened)
    elif folder.uidvalidity != opened.uidvalidity:
        folder = renumber(run, imap, folder, opened, tally)
        full = True
    if full:
        if run.full_since is not None:
            # Only what was there before: what this very sync sets aside, over several runs, stays aside.
            with run.transaction() as connection:
                changes.forget_quarantined(connection, run.account, folder, run.full_since)
        present = compare_all(run, imap, folder, opened, tally)
        _fetch(run, imap, folder, present, tally, first=1)
    else:
        apply_changes(run, imap, folder, opened, tally)
        if opened.uidnext is None or opened.uidnext > folder.uidnext:
            _fetch(run, imap, folder, imap.search(folder.uidnext, opened), tally, first=folder.uidnext)
    _finish(run, imap, folder, opened, tally, full=full)


def _begin(run: Run, folder: Folder, opened: FolderStatus) -> Folder:
    with run.transaction() as connection:
        change_folder(
            connection,
            run.account,
            folder.id,
            {"uidvalidity": opened.uidvalidity, "uidnext": 1, "highestmodseq": opened.highestmodseq},
        )
    return folder._replace(uidvalidity=opened.uidvalidity, uidnext=1, highestmodseq=opened.highestmodseq)


def _fetch(
    run: Run, imap: ImapConnection, folder: Folder, on_server: UidSet, tally: FolderTally, *, first: int
) -> None:
    with run.transaction() as connection:
        missing = changes.missing_uids(connection, run.account, folder, on_server, first)
    if not missing.ranges:
        return
    run.show(folder=folder.name, messages_total=run.progress.messages_done + missing.size())
    assert folder.uidvalidity is not None
    batches = fetch_batches(run, imap, folder, missing)
    take_in(run, folder, UidNumbering(folder.uidvalidity), batches, tally, interrupt=imap.abandon)


def _finish(
    run: Run, imap: ImapConnection, folder: Folder, opened: FolderStatus, tally: FolderTally, *, full: bool
) -> None:
    """Make sure the number of messages agrees, and remember the server's state."""
    with run.transaction() as connection:
        if full:
            changes.recount(connection, run.account, folder)
        current = load_folder(connection, run.account, folder.id)
    if current.total_count + current.quarantined_count != opened.messages:
        present = compare_uids(run, imap, folder, opened, tally)
        _fetch(run, imap, folder, present, tally, first=1)
    state: dict[str, object] = {
        "server_count": opened.messages,
        "highestmodseq": opened.highestmodseq,
        "suspect_uid": None,
        "suspect_attempts": 0,
        "synced_at": func.now(),
    }
    if opened.uidnext is not None:
        state["uidnext"] = opened.uidnext
    if full:
        state["verified_at"] = func.now()
    with run.transaction() as connection:
        change_folder(connection, run.account, folder.id, state)
