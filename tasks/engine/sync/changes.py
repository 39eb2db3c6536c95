"""Brings stored messages in line with the server: their flags, removals, and new UIDs."""

import logging
from collections.abc import Iterable
from itertools import islice
from typing import Any, NamedTuple

from tasks.engine.envelopes import envelope_of, in_parts, other_messages
from tasks.engine.run import FolderTally, Run
from tasks.engine.sync.completeness import gone, is_known_window, is_window
from tasks.mail.imap.commands import ImapConnection
from tasks.mail.imap.fetch import FetchedEnvelope, FetchedFlags
from tasks.mail.imap.flags import Flags, read_flags
from tasks.mail.imap.responses import FolderStatus
from tasks.mail.imap.uidset import UidSet
from tasks.mail.session import CommandRefusedError
from tasks.storage.messages import changes
from tasks.storage.messages.folders import Folder, change_folder
from tasks.storage.session import tenant_transaction

logger = logging.getLogger(__name__)

# How many UIDs are asked about at a time: the answers, a line for each message, are held in memory.
_UIDS_PER_CHANGE_REQUEST = 50_000
_FLAGS_PER_REQUEST = 5_000
_ENVELOPES_PER_REQUEST = 2_000


def apply_changes(run: Run, imap: ImapConnection, folder: Folder, opened: FolderStatus, tally: FolderTally) -> None:
    """Apply changes of flags and removals since the last sync:
    by CONDSTORE and QRESYNC, else by comparing all messages."""
    if folder.uidnext <= 1 and not folder.total_count:
        return
    known, current = folder.highestmodseq, opened.highestmodseq
    if known is None or current is None or current < known:
        # HIGHESTMODSEQ only ever grows (RFC 7162 section 3.1). If it shrank, the server was restored from a backup.
        compare_all(run, imap, folder, opened, tally)
    elif current != known:
        # The range includes UIDs above the checkpoint, because
        # messages that a worker filed or moved are stored already.
        end = max(folder.uidnext, opened.uidnext or 0)
        for first in range(1, end, _UIDS_PER_CHANGE_REQUEST):
            changed = imap.fetch_changes(UidSet(((first, min(first + _UIDS_PER_CHANGE_REQUEST, end) - 1),)), known)
            if not changed.is_whole:
                # The server does not tell a change again once its
                # HIGHESTMODSEQ is stored, so unread lines need a comparison.
                compare_all(run, imap, folder, opened, tally)
                return
            removed = _removed(run, imap, folder, opened, changed.vanished)
            with run.transaction() as connection:
                states = _states(folder, changed.flags)
                tally.updated += changes.update_flags(connection, run.account, folder, states)
                tally.deleted += changes.remove_uids(connection, run.account, folder, removed)


def compare_all(run: Run, imap: ImapConnection, folder: Folder, opened: FolderStatus, tally: FolderTally) -> UidSet:
    """Compare every UID and every flag with the server's, and return the UIDs the server has."""
    present = compare_uids(run, imap, folder, opened, tally).present
    with run.transaction() as connection:
        stored = changes.stored_uids(connection, run.account, folder, present)
    remaining = stored.uids()
    while uids := list(islice(remaining, _FLAGS_PER_REQUEST)):
        flags = imap.fetch_flags(UidSet.of(uids))
        with run.transaction() as connection:
            tally.updated += changes.update_flags(connection, run.account, folder, _states(folder, flags))
    return present


class Compared(NamedTuple):
    """The UIDs that the server names, and the number of messages that the server states."""

    present: UidSet
    messages: int


def compare_uids(
    run: Run, imap: ImapConnection, folder: Folder, opened: FolderStatus, tally: FolderTally
) -> Compared:
    """Remove messages that the server no longer has, by the rule in `engine.sync.completeness`.

    If SEARCH names fewer messages than the server counts (EXISTS), its answer is not used, and nothing is removed.
    """
    present = imap.search(1, opened)
    if present.size() < opened.messages:
        # Some messages may have been removed since the folder was opened.
        opened = imap.select(folder.path)
        present = imap.search(1, opened)
    if present.size() < opened.messages:
        logger.warning("SEARCH names %d of %d messages; nothing is removed", present.size(), opened.messages)
        return Compared(present, opened.messages)
    below = max(folder.uidnext, opened.uidnext or 0)
    with run.transaction() as connection:
        absent = changes.absent_uids(connection, run.account, folder, present, below)
    removed = gone(imap, folder, opened, present, absent)
    hidden = absent.size() - removed.size()
    window = folder.window_size or (opened.messages if hidden else None)
    if not is_window(folder, opened.messages):
        window = None
    with run.transaction() as connection:
        tally.deleted += changes.remove_uids(connection, run.account, folder, removed)
        if window:
            hidden += changes.count_unnumbered(connection, run.account, folder)
        elif folder.window_size:
            assert folder.uidvalidity is not None
            tally.deleted += changes.remove_unnumbered(connection, run.account, folder, folder.uidvalidity)
        if (hidden, window) != (folder.hidden_count, folder.window_size):
            change_folder(connection, run.account, folder.id, {"hidden_count": hidden, "window_size": window})
    return Compared(present, present.size())


def has_other_messages(
    run: Run, imap: ImapConnection, folder: Folder, opened: FolderStatus, present: UidSet, tally: FolderTally
) -> bool:
    """Compare the envelope and the flags of each stored message.

    Returns whether the server has another message under a UID.

    Raises CutShortError when the time of the run is used up; the next run goes on after the compared messages.
    """
    compared = run.tally.compared.get(folder.id, 0)
    if compared and opened.highestmodseq is not None:
        # Apply flags that changed since an earlier run compared these messages: this run will store the server's
        # present HIGHESTMODSEQ, so no later sync would ask for them.
        apply_changes(run, imap, folder, opened, tally)
    with tenant_transaction(run.account.tenant_id) as connection:
        stored = changes.stored_uids(connection, run.account, folder, present)
    remaining = stored.from_uid(compared + 1).uids()
    while uids := list(islice(remaining, _ENVELOPES_PER_REQUEST)):
        fetched = list(imap.fetch_envelopes(UidSet.of(uids)))
        if other_messages(run, folder, map(envelope_of, fetched)):
            return True
        with run.transaction() as connection:
            tally.updated += changes.update_flags(connection, run.account, folder, _states(folder, fetched))
        run.note_compared(folder.id, uids[-1])
        run.check_deadline()
    return False


def renumber(run: Run, imap: ImapConnection, folder: Folder, opened: FolderStatus, tally: FolderTally) -> Folder:
    """Find the new UIDs of the stored messages by Message-ID, size and
    date, after UIDVALIDITY changed or UIDs went to other messages.

    No body is downloaded again. Messages that the server no longer has are removed, unless they may be outside of a
    window; new messages are fetched later as missing ones. Raises CommandRefusedError where the server does not name
    all its messages, because the others would be removed.
    """
    run.tally.compared.pop(folder.id, None)
    state: dict[str, Any] = {"uidvalidity": opened.uidvalidity, "uidnext": 1, "highestmodseq": None}
    state |= {"mailbox_id": opened.mailbox_id, "suspect_uid": None, "suspect_attempts": 0}
    uids = imap.search(1, opened)
    _require_all(uids.size(), opened.messages)
    others: list[int] = []
    told = 0
    with tenant_transaction(run.account.tenant_id) as connection:
        changes.begin_renumbering(connection)
        for fetched in in_parts(imap, uids, _ENVELOPES_PER_REQUEST):
            envelopes = list(map(envelope_of, fetched))
            changes.add_envelopes(connection, envelopes)
            told += len(envelopes)
            if folder.uidvalidity == opened.uidvalidity:
                others += other_messages(run, folder, envelopes)
            run.keep_lease()
        _require_all(told, uids.size())
        changes.set_apart(connection, run.account, folder, others)
        removes = folder.window_size is None or not is_window(folder, opened.messages)
        tally.deleted += changes.finish_renumbering(
            connection, run.account, folder, opened.uidvalidity, removes=removes
        )
        changes.forget_quarantined(connection, run.account, folder)
        change_folder(connection, run.account, folder.id, state)
        run.confirm_lease(connection)
    # Stored UIDs at or above the server's UIDNEXT are absent as well.
    is_the_same = folder.uidvalidity == opened.uidvalidity
    return folder._replace(**state)._replace(uidnext=folder.uidnext if is_the_same else 1)


def _require_all(told: int, messages: int) -> None:
    if told < messages:
        raise CommandRefusedError(f"it numbers its messages anew (UIDVALIDITY) and tells of {told} of {messages}")


def _removed(run: Run, imap: ImapConnection, folder: Folder, opened: FolderStatus, vanished: UidSet) -> UidSet:
    """The stored messages among the `vanished` UIDs that the server really has no more (see
    `engine.sync.completeness`)."""
    if not vanished.ranges or is_known_window(folder, opened.messages):
        return UidSet()
    with run.transaction() as connection:
        ours = changes.stored_uids(connection, run.account, folder, vanished)
    return ours.minus(imap.existing(ours))


def _states(folder: Folder, fetched: Iterable[FetchedFlags | FetchedEnvelope]) -> list[tuple[int, Flags]]:
    # A dict by UID, so that a message about which the server tells twice is updated once.
    by_uid = {one.uid: read_flags(one.flags, folder.type) for one in fetched if one.flags is not None}
    return list(by_uid.items())
