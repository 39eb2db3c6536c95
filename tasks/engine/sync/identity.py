"""Finds stored folders on the server again after they were renamed, which IMAP does not tell.

A stored folder is looked for if its path is gone, or if there may
be another folder under its path. It is recognised, in this order,

    by its MAILBOXID                        (RFC 8474): where both have one, nothing else counts
    by its UIDVALIDITY and its messages     under the same UIDs
    by its messages                         under any UIDs, where the server numbers a renamed folder anew

Many servers give the same UIDVALIDITY to many folders, so messages are compared: the newest stored messages, by
Message-ID, size and date. If several folders on the server match, the one with the old name is taken.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from tasks.engine.envelopes import fetch_envelopes, is_same
from tasks.engine.run import Run
from tasks.engine.sync.folder import is_unchanged
from tasks.mail.imap.commands import FolderGoneError, ImapConnection
from tasks.mail.imap.responses import FolderStatus
from tasks.mail.imap.uidset import UidSet
from tasks.mail.session import CommandRefusedError
from tasks.storage.messages import changes
from tasks.storage.messages.changes import Envelope
from tasks.storage.messages.folders import Folder
from tasks.storage.session import tenant_transaction

_SAMPLE = 20
# How many of the newest messages on the server are looked at: twice the sample, as new ones may have arrived.
_NEWEST_THERE = 2 * _SAMPLE


class _Found(NamedTuple):
    """The folder that the server has under a path."""

    state: FolderStatus
    messages: dict[int, Envelope]


def dubious_paths(
    ours: Mapping[str, Folder], statuses: Mapping[str, FolderStatus], *, is_moving: bool
) -> frozenset[str]:
    """Paths under which, by their state, the server may now have another folder than the stored one.

    `is_moving` says that some folder is known to have a new name. In that case every folder that shares its
    UIDVALIDITY with another one, and has changed or has the same state as another one, may have a new name too.
    """
    known = [
        (folder, status)
        for path, folder in ours.items()
        if (status := statuses.get(path)) and folder.uidvalidity is not None and status.uidvalidity
    ]
    others = {folder.path for folder, status in known if status.uidvalidity != folder.uidvalidity}
    if not is_moving and not others:
        return frozenset()
    number, alike = Counter(folder.uidvalidity for folder in ours.values()), twins(ours.values())
    return frozenset(others).union(
        folder.path
        for folder, status in known
        if number[folder.uidvalidity] > 1 and (folder.id in alike or not is_unchanged(folder, status))
    )


def twins(folders: Iterable[Folder]) -> set[str]:
    """The ids of folders whose states are so alike that two of them could have swapped names unnoticed."""
    by_state: dict[tuple[int | None, int, int | None, int], set[str]] = {}
    for folder in folders:
        if folder.total_count:
            state = (folder.uidvalidity, folder.uidnext, folder.highestmodseq, folder.total_count)
            by_state.setdefault(state, set()).add(folder.id)
    return {folder_id for alike in by_state.values() if len(alike) > 1 for folder_id in alike}


def find_places(run: Run, imap: ImapConnection, homeless: list[Folder], free: Iterable[str]) -> dict[str, str]:
    """By folder id, the path of each of the `homeless` stored folders that is found under one of the `free` paths."""
    samples = _samples(run, homeless)
    wanted = [folder for folder in homeless if folder.id in samples or folder.mailbox_id]
    if not wanted:
        return {}
    found = _look(imap, free, wanted, samples)
    places: dict[str, str] = {}
    for matches in (_has_its_id, _has_its_uids, _has_its_messages):
        for folder in wanted:
            # Look at the folder's old path first.
            paths = sorted(found.keys() - set(places.values()), key=lambda path: (path != folder.path, path))
            fitting = [path for path in paths if matches(folder, found[path], samples.get(folder.id, []))]
            if folder.id not in places and fitting:
                places[folder.id] = fitting[0]
    return places


def _samples(run: Run, folders: list[Folder]) -> dict[str, list[Envelope]]:
    with tenant_transaction(run.account.tenant_id) as connection:
        newest = {folder.id: changes.newest(connection, run.account, folder, _SAMPLE) for folder in folders}
    return {folder_id: envelopes for folder_id, envelopes in newest.items() if envelopes}


def _look(
    imap: ImapConnection, paths: Iterable[str], wanted: list[Folder], samples: dict[str, list[Envelope]]
) -> dict[str, _Found]:
    """The folder under each path, with its newest messages only where no MAILBOXID identifies the folder."""
    found: dict[str, _Found] = {}
    for path in paths:
        state = _opened(imap, path)
        if state is None:
            continue
        messages: dict[int, Envelope] = {}
        unnamed = [folder.id for folder in wanted if not (folder.mailbox_id and state.mailbox_id)]
        uids = {envelope.uid for folder_id in unnamed for envelope in samples.get(folder_id, [])}
        if state.messages and uids:
            asked = UidSet.of(uids | set(imap.newest_uids(state, _NEWEST_THERE).uids()))
            messages = {envelope.uid: envelope for envelope in fetch_envelopes(imap, asked)}
        found[path] = _Found(state, messages)
    return found


def _opened(imap: ImapConnection, path: str) -> FolderStatus | None:
    """Open a folder; after a refusal try a second time, because
    the rows of a folder that is not found are removed."""
    for _ in range(2):
        try:
            return imap.select(path)
        except FolderGoneError:
            break
        except CommandRefusedError:
            continue
    return None


def _has_its_id(folder: Folder, found: _Found, _: list[Envelope]) -> bool:
    return folder.mailbox_id is not None and folder.mailbox_id == found.state.mailbox_id


def _may_be(folder: Folder, found: _Found) -> bool:
    return folder.mailbox_id is None or found.state.mailbox_id is None


def _has_its_uids(folder: Folder, found: _Found, sample: list[Envelope]) -> bool:
    there = [envelope for envelope in sample if envelope.uid in found.messages]
    return (
        bool(there)
        and _may_be(folder, found)
        and folder.uidvalidity == found.state.uidvalidity
        and all(is_same(envelope, found.messages[envelope.uid]) for envelope in there)
    )


def _has_its_messages(folder: Folder, found: _Found, sample: list[Envelope]) -> bool:
    """Whether at least half of the sample is in the found folder. Messages without a Message-ID do not count."""
    known = [envelope for envelope in sample if envelope.message_id]
    there = {(envelope.message_id, envelope.size) for envelope in found.messages.values()}
    same = sum((envelope.message_id, envelope.size) in there for envelope in known)
    return bool(same) and _may_be(folder, found) and 2 * same >= len(known)
