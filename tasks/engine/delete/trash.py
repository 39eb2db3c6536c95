"""Finds the UIDs in Trash of messages that were moved or copied
there: told by the server, or recognised by Message-ID and size."""

from tasks.engine.envelopes import fetch_envelopes, is_same
from tasks.engine.run import Run
from tasks.mail.imap.commands import ImapConnection
from tasks.mail.imap.removal import Moved
from tasks.mail.imap.responses import FolderStatus
from tasks.mail.imap.uidset import UidSet
from tasks.mail.session import CommandRefusedError
from tasks.storage.messages.changes import missing_uids
from tasks.storage.messages.deletions import Target, filed_uids
from tasks.storage.messages.folders import Folder

# A message that was moved a moment ago is among the newest in Trash.
_NEWEST = 2_000


class Trash:
    """Finds messages in the Trash of one account."""

    def __init__(self, run: Run, imap: ImapConnection) -> None:
        self._run, self._imap = run, imap

    def places(self, batch: list[Target], moved: Moved, trash: Folder) -> Moved:
        """The messages' UIDs in Trash: as the server said, else recognised by Message-ID and size.

        The result has no UIDVALIDITY where the place of no message is known.
        """
        lost = [message for message in batch if message.imap_uid not in moved.uids]
        if lost:
            found = self.recognised(lost, trash)
            if moved.uidvalidity in (None, found.uidvalidity):
                moved = Moved(found.uidvalidity, moved.uids | found.uids)
        if not _is_unknown(trash, moved) and trash.uidvalidity != moved.uidvalidity:
            # Nothing is known, or Trash has another UIDVALIDITY now; the next sync brings the messages.
            return Moved(None, {})
        return moved

    def recognised(self, batch: list[Target], trash: Folder, *, with_stored: bool = False) -> Moved:
        """Messages of the batch that are in Trash, recognised by Message-ID and size, and not stored there yet.

        With `with_stored` also messages that are stored there. A message that could only be marked as deleted is in
        its folder and in Trash, and a sync stores both.
        """
        try:
            opened = self._imap.select(trash.path)
        except CommandRefusedError:
            return Moved(None, {})
        wanted: dict[tuple[str, int], list[int]] = {}
        for message in batch:
            if message.message_id is not None and message.imap_uid is not None:
                wanted.setdefault((message.message_id, message.size), []).append(message.imap_uid)
        found: dict[int, int] = {}
        if wanted and opened.messages:
            candidates = self._candidates(batch, trash, opened, with_stored=with_stored)
            for envelope in fetch_envelopes(self._imap, candidates):
                if alike := wanted.get((envelope.message_id or "", envelope.size)):
                    found[alike.pop()] = envelope.uid
        return Moved(opened.uidvalidity, found)

    def _candidates(self, batch: list[Target], trash: Folder, opened: FolderStatus, *, with_stored: bool) -> UidSet:
        """The UIDs in Trash, which is open, that messages of the batch may have."""
        first = trash.uidnext if trash.uidvalidity == opened.uidvalidity else 1
        has_new = opened.uidnext is None or opened.uidnext > first
        uids = self._imap.search(first, opened) if has_new else UidSet()
        numbered = trash._replace(uidvalidity=opened.uidvalidity)
        with self._run.transaction() as connection:
            new = missing_uids(connection, self._run.account, numbered, uids, first)
            ids = [message.id for message in batch] if with_stored else []
            stored = filed_uids(connection, self._run.account, numbered, ids)
        return UidSet.of([*stored, *list(new.uids())[-_NEWEST:]])

    def believed(self, moved: Moved, trash: Folder, batch: list[Target]) -> Moved:
        """The new UIDs in Trash as the server told them, or nothing if they cannot be true.

        True UIDs are above all UIDs stored for Trash, and have Trash's UIDVALIDITY. If Trash was never synced, the
        messages under these UIDs are compared instead.
        """
        if not moved.uids:
            return moved
        if _is_unknown(trash, moved):
            is_possible = self._holds(trash, moved, batch)
        else:
            is_possible = moved.uidvalidity == trash.uidvalidity and min(moved.uids.values()) >= trash.uidnext
        return moved if is_possible else Moved(None, {})

    def _holds(self, trash: Folder, moved: Moved, batch: list[Target]) -> bool:
        try:
            if self._imap.select(trash.path).uidvalidity != moved.uidvalidity:
                return False
            seen = {
                envelope.uid: envelope for envelope in fetch_envelopes(self._imap, UidSet.of(moved.uids.values()))
            }
        except CommandRefusedError:
            return False
        places = [(message, moved.uids[message.imap_uid]) for message in batch if message.imap_uid in moved.uids]
        return all(uid in seen and is_same(message.envelope, seen[uid]) for message, uid in places)


def perhaps_in_trash(strays: list[Target], told: Moved, places: Moved) -> list[Target]:
    """Those messages without a known place in Trash that may
    be in Trash all the same; the others were gone before."""
    if places.uidvalidity is None:
        return strays
    return [message for message in strays if message.message_id is None] if told.uidvalidity is None else []


def _is_unknown(trash: Folder, moved: Moved) -> bool:
    """Whether Trash was never synced, or is empty and has a new UIDVALIDITY
    (Courier gives an empty folder a new one at each opening)."""
    is_empty = not trash.total_count + trash.quarantined_count
    return trash.uidvalidity is None or (
        is_empty and moved.uidvalidity is not None and moved.uidvalidity != trash.uidvalidity
    )
