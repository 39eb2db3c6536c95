"""Recognises a folder that was renamed, so that its messages are kept. IMAP does not tell of it.

A folder that is gone and a new one with the same UIDVALIDITY are candidates; many servers give the same number to
many folders, so the newest messages must agree as well.
"""

from tasks.engine.envelopes import fetch_envelopes
from tasks.engine.run import Run
from tasks.mail.imap import ImapConnection
from tasks.mail.imap_responses import FolderStatus
from tasks.mail.imap_session import FetchRefusedError
from tasks.mail.uidset import UidSet
from tasks.storage import changes
from tasks.storage.changes import Envelope
from tasks.storage.folders import Folder

_SAMPLE = 5


def find_renames(
    run: Run, imap: ImapConnection, gone: list[Folder], new: list[str], statuses: dict[str, FolderStatus]
) -> list[tuple[Folder, str]]:
    """Pairs of a folder of ours and its new path."""
    renames: list[tuple[Folder, str]] = []
    candidates = [folder for folder in gone if folder.total_count]
    if not candidates:
        return renames
    states = {path: statuses.get(path) or imap.status(path) for path in new}
    for folder in candidates:
        sample = _sample(run, folder)
        for path, status in states.items():
            if _may_be(folder, status) and _holds(imap, path, sample):
                renames.append((folder, path))
                del states[path]
                break
    return renames


def _may_be(folder: Folder, status: FolderStatus | None) -> bool:
    if status is None or status.uidvalidity != folder.uidvalidity or not status.messages:
        return False
    return status.uidnext is None or status.uidnext >= folder.uidnext


def _sample(run: Run, folder: Folder) -> dict[int, tuple[str | None, int]]:
    with run.transaction() as connection:
        newest = changes.newest(connection, run.account, folder, _SAMPLE)
    return {envelope.uid: _identity(envelope) for envelope in newest}


def _holds(imap: ImapConnection, path: str, sample: dict[int, tuple[str | None, int]]) -> bool:
    try:
        imap.select(path)
    except FetchRefusedError:
        return False
    there = {envelope.uid: _identity(envelope) for envelope in fetch_envelopes(imap, UidSet.of(sample))}
    return bool(there) and all(sample[uid] == identity for uid, identity in there.items() if uid in sample)


def _identity(envelope: Envelope) -> tuple[str | None, int]:
    return envelope.message_id, envelope.size
