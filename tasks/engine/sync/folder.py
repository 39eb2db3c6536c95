"""Brings one stored folder in line with the folder on the server.

State machine, by UIDVALIDITY, UIDNEXT and HIGHESTMODSEQ (RFC 9051 section 2.3.1, RFC 7162):

    the server's state is the stored state      ->  nothing to do, the folder is not even opened
    no UIDVALIDITY is stored                    ->  begin: store UIDVALIDITY and HIGHESTMODSEQ, checkpoint at UID 1
    the server has another folder at this path  ->  the stored folder may have a new name: see engine/sync/identity.py
    the stored folder has no new name           ->  renumber: give the stored messages their new UIDs
    same UIDVALIDITY                            ->  apply changes of flags and removals, then fetch missing messages

Another folder has another UIDVALIDITY or MAILBOXID (RFC 8474). But on a server without MAILBOXID two folders may
share a UIDVALIDITY, because it is the second in which they were made, or the same for all folders. So there the
newest stored messages are compared, and a full sync compares all.

HIGHESTMODSEQ is read when the folder is opened, and stored only when everything is done. So changes made in between
are asked for again by the next sync, and applying a change twice does no harm. Each batch of messages and its
checkpoint (`uidnext`) are stored in one transaction. Only messages that the server has and that are not stored are
fetched, so the next run simply continues a run that was killed.
"""

import time
from typing import Any

from sqlalchemy import func

from tasks.engine.envelopes import fetch_envelopes, is_same
from tasks.engine.run import FolderTally, Run
from tasks.engine.sync.arriving import store_arriving
from tasks.engine.sync.changes import apply_changes, compare_uids, has_other_messages, renumber
from tasks.engine.sync.completeness import is_as_known, standing
from tasks.engine.sync.fetch import fetch_batches
from tasks.log_fields import logged_with
from tasks.mail.imap.commands import ImapConnection
from tasks.mail.imap.responses import FolderStatus
from tasks.mail.imap.uidset import UidSet
from tasks.mail.session import CommandRefusedError
from tasks.storage.messages import changes
from tasks.storage.messages.batch import UidNumbering
from tasks.storage.messages.folders import Folder, change_folder, load_folder
from tasks.storage.session import tenant_transaction

# How many messages are compared to tell whether a folder on the server is the stored folder.
_SAMPLE = 3


class AnotherFolderError(Exception):
    """The folder that the server has under this path is not the stored folder of this path."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path


def sync_folder(
    run: Run,
    imap: ImapConnection,
    folder: Folder,
    status: FolderStatus | None,
    *,
    is_identified: bool = False,
    full: bool = False,
) -> None:
    """Sync one folder. `status` is the state that LIST gave, if any; `full` compares every message.

    Raises AnotherFolderError if the server has another folder under the path. If the folder `is_identified`, its rows
    are brought in line with whatever folder is there instead. Raises CutShortError when the time of the run is used
    up, and the transient errors of server and storage.
    """
    full = full or (run.full_since is not None and not folder.is_verified)
    if status and not full and is_unchanged(folder, status):
        return
    tally = run.tally.of(folder.name)
    started = time.monotonic()
    try:
        with logged_with(folder=folder.id):
            _sync(run, imap, folder, tally, full=full, is_identified=is_identified)
    finally:
        tally.seconds += time.monotonic() - started


def is_unchanged(folder: Folder, status: FolderStatus) -> bool:
    """Whether the server's state of the folder is the stored one.

    Always false without CONDSTORE, as flags may have changed.
    """
    return (
        status.highestmodseq is not None
        and status.highestmodseq == folder.highestmodseq
        and status.uidvalidity == folder.uidvalidity
        and status.uidnext == folder.uidnext
        and folder.missing_reason != "refused"
        and is_as_known(folder, status.messages)
    )


def is_another(run: Run, imap: ImapConnection, folder: Folder, opened: FolderStatus) -> bool:
    """Whether the open folder is another one than the stored folder."""
    if folder.uidvalidity != opened.uidvalidity:
        return True
    if folder.mailbox_id and opened.mailbox_id:
        return folder.mailbox_id != opened.mailbox_id
    with tenant_transaction(run.account.tenant_id) as connection:
        known = {envelope.uid: envelope for envelope in changes.newest(connection, run.account, folder, _SAMPLE)}
    if not known:
        return False
    seen = [envelope for envelope in fetch_envelopes(imap, UidSet.of(known)) if envelope.uid in known]
    # A UIDNEXT that went back means that the folder was made anew, or restored from a backup.
    made_anew = not seen and opened.uidnext is not None and opened.uidnext < folder.uidnext
    return made_anew or not all(is_same(known[envelope.uid], envelope) for envelope in seen)


def _sync(
    run: Run, imap: ImapConnection, folder: Folder, tally: FolderTally, *, full: bool, is_identified: bool
) -> None:
    opened = imap.select(folder.path)
    if not opened.uidvalidity and folder.uidvalidity:
        raise CommandRefusedError("the server gives no UIDVALIDITY")
    if folder.uidvalidity is None:
        folder = _begin(run, folder, opened)
    elif is_another(run, imap, folder, opened):
        if not is_identified:
            raise AnotherFolderError(folder.path)
        folder, full = renumber(run, imap, folder, opened, tally), True
    if full:
        if run.full_since is not None:
            # Only messages that were in quarantine before: what this
            # sync itself quarantined, in any of its runs, stays there.
            with run.transaction() as connection:
                changes.forget_quarantined(connection, run.account, folder, run.full_since)
        present = compare_uids(run, imap, folder, opened, tally).present
        if has_other_messages(run, imap, folder, opened, present, tally):
            if not is_identified:
                raise AnotherFolderError(folder.path)
            folder = renumber(run, imap, folder, opened, tally)
            has_other_messages(run, imap, folder, opened, present, tally)
        _fetch(run, imap, folder, present, tally, first=1)
    else:
        apply_changes(run, imap, folder, opened, tally)
        if opened.uidnext is None or opened.uidnext > folder.uidnext:
            _fetch(run, imap, folder, imap.search(folder.uidnext, opened), tally, first=folder.uidnext)
    _finish(run, imap, folder, opened, tally, full=full)


def _begin(run: Run, folder: Folder, opened: FolderStatus) -> Folder:
    state: dict[str, Any] = {"uidvalidity": opened.uidvalidity, "uidnext": 1, "highestmodseq": opened.highestmodseq}
    state["mailbox_id"] = opened.mailbox_id
    with run.transaction() as connection:
        change_folder(connection, run.account, folder.id, state)
    return folder._replace(**state)


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
    store_arriving(run, folder, UidNumbering(folder.uidvalidity), batches, tally, interrupt=imap.abandon)


def _finish(
    run: Run, imap: ImapConnection, folder: Folder, opened: FolderStatus, tally: FolderTally, *, full: bool
) -> None:
    """Compare the number of messages with the server's, and store the server's state."""
    with run.transaction() as connection:
        if full:
            changes.recount(connection, run.account, folder)
        current = load_folder(connection, run.account, folder.id)
    messages, named = opened.messages, None
    # In a window, a removed message makes room for an older one, so the number alone does not show a removal.
    if current.hidden_count or not is_as_known(current, messages):
        compared = compare_uids(run, imap, current, opened, tally)
        messages, named = compared.messages, compared.present.size()
        _fetch(run, imap, folder, compared.present, tally, first=1)
    state: dict[str, object] = {
        "highestmodseq": opened.highestmodseq,
        "mailbox_id": opened.mailbox_id,
        "suspect_uid": None,
        "suspect_attempts": 0,
        "synced_at": func.now(),
    }
    if opened.uidnext is not None:
        state["uidnext"] = opened.uidnext
    if full:
        state["verified_at"] = func.now()
    with run.transaction() as connection:
        current = load_folder(connection, run.account, folder.id)
        state |= standing(run, connection, folder, current, messages, named)
        change_folder(connection, run.account, folder.id, state)
