"""Moves messages to Trash on an IMAP server, or removes them there, and has their rows follow."""

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from tasks.engine.delete.trash import Trash, perhaps_in_trash
from tasks.engine.envelopes import fetch_envelopes, is_same
from tasks.engine.run import Run
from tasks.engine.sync.folder import is_another
from tasks.engine.sync.mailbox import find_again, make_folder, reconcile
from tasks.errors import NoTrashError
from tasks.mail.imap import removal
from tasks.mail.imap.commands import FolderGoneError, ImapConnection
from tasks.mail.imap.folders import ListedFolder, classify
from tasks.mail.imap.removal import Moved
from tasks.mail.imap.responses import FolderStatus
from tasks.mail.imap.session import NotUnderstoodError
from tasks.mail.imap.uidset import UidSet
from tasks.mail.kinds import FolderType
from tasks.mail.session import CommandRefusedError
from tasks.settings import get_settings
from tasks.storage.messages.deletions import Target, find_messages, mark_messages, move_messages, remove_messages
from tasks.storage.messages.folders import Folder, change_folder, load_folder, load_folders

_NEW_TRASH = "Trash"

# Gmail removes a message for good only from these folders; elsewhere it archives the message.
_LAST_STOPS = (FolderType.TRASH, FolderType.SPAM)


class _Opened(NamedTuple):
    """An open folder, the messages to delete in it, and those of these messages that the server still has."""

    folder: Folder
    batch: list[Target]
    there: list[Target]


class ImapDeletion:
    """Deletes messages of one account. `move_to_trash` and `remove` return how many messages could only be marked.

    Right before a message is deleted, it is compared with the message that the server has under its UID. If the
    server has another message there, the stored folder is looked for on the server and all its messages are compared.
    A message that cannot be found even then is added to `left`.
    """

    def __init__(self, run: Run, imap: ImapConnection) -> None:
        self._run, self._imap = run, imap
        self._found = Trash(run, imap)
        self._trash: Folder | None = None
        self._is_last_stop = True
        self.left: list[Target] = []

    def move_to_trash(self, messages: list[Target], *, is_last_stop: bool = True) -> int:
        """Move messages to the account's Trash, which is made if there is none.

        Raises NoTrashError where it cannot be made.

        Unless Trash `is_last_stop`, the caller removes the messages from Trash next; messages that it could not find
        there again are only marked as deleted in their rows.
        """
        trash = self._trash = self._known_trash() or self._trash_of(*self._imap.list_folders())
        self._is_last_stop = is_last_stop
        outside = [message for message in self._as_they_are_now(messages) if message.folder_id != trash.id]
        return self._in_batches(outside, self._into_trash)

    def remove(self, messages: list[Target]) -> int:
        """Remove messages for good."""
        if not removal.keeps_what_is_removed(self._imap):
            return self._in_batches(self._as_they_are_now(messages), self._remove)
        elsewhere = [message for message in messages if message.folder_type not in _LAST_STOPS]
        marked = self.move_to_trash(elsewhere, is_last_stop=False) if elsewhere else 0
        there = [message for message in self._as_they_are_now(messages) if message.folder_type in _LAST_STOPS]
        return marked + self._in_batches(there, self._remove)

    def _in_batches(self, messages: list[Target], delete: Callable[[Folder, list[Target]], int]) -> int:
        size = get_settings().delete.batch_size
        marked = 0
        for number, batch in enumerate(_batches(messages, size)):
            if number:
                self._run.check_deadline()
                # While the batch before was deleted, the folder may have been found with other UIDs.
                batch = self._as_they_are_now(batch)
            if batch:
                marked += delete(self._folder_of(batch), batch)
            self._run.show(messages_done=self._run.progress.messages_done + len(batch))
        return marked

    def _folder_of(self, batch: list[Target]) -> Folder:
        with self._run.transaction() as connection:
            return load_folder(connection, self._run.account, batch[0].folder_id)

    def _into_trash(self, folder: Folder, batch: list[Target]) -> int:
        assert self._trash is not None
        try:
            return self._move(folder, batch, self._trash)
        except CommandRefusedError:
            # Without the code [TRYCREATE], which servers may leave
            # out, the refusal does not say whether Trash is missing.
            listed, statuses = self._imap.list_folders()
            if self._trash.path in {found.path for found in listed if found.is_selectable}:
                raise
        self._trash = self._trash_of(listed, statuses)
        # The rows of folders that are gone were removed, and other folders may have new names.
        batch = [message for message in self._as_they_are_now(batch) if message.folder_id == folder.id]
        if not batch or folder.id == self._trash.id:
            return 0
        return self._move(self._folder_of(batch), batch, self._trash)

    def _move(self, folder: Folder, batch: list[Target], trash: Folder) -> int:
        told = copied = Moved(None, {})
        try:
            folder, batch, there = self._opened(folder, batch)
            trash = self._by_its_path_now(trash)
            at_once = self._move_at_once(there, trash)
            if at_once is None:
                copied = self._found.recognised(there, trash, with_stored=True)
                folder, batch, there = self._opened(folder, batch)
                told = self._copy(there, copied, trash)
                if not self._expunge(there):
                    return self._mark(batch)
            else:
                told = at_once
        except FolderGoneError:
            pass  # the folder and its messages are gone; the messages may be in Trash
        told = self._found.believed(told, trash, batch)
        moved = Moved(told.uidvalidity or copied.uidvalidity, copied.uids | told.uids)
        places = self._found.places(batch, moved, trash)
        moving = {m.id: places.uids[m.imap_uid] for m in batch if m.imap_uid in places.uids}
        strays = [message for message in batch if message.id not in moving]
        lost = [] if self._is_last_stop else perhaps_in_trash(strays, moved, places)
        with self._run.transaction(durable=True) as connection:
            if places.uidvalidity and trash.uidvalidity not in (None, places.uidvalidity):
                # Courier gives a folder that never had a message a new UIDVALIDITY each time the folder is opened.
                begin_anew = {"uidvalidity": places.uidvalidity, "uidnext": 1, "highestmodseq": None}
                change_folder(connection, self._run.account, trash.id, begin_anew)
            move_messages(connection, self._run.account, trash, places.uidvalidity, moving)
            remove_messages(connection, self._run.account, [m.id for m in strays if m not in lost])
            mark_messages(connection, self._run.account, [m.id for m in lost])
        return len(lost)

    def _remove(self, folder: Folder, batch: list[Target]) -> int:
        try:
            _, batch, there = self._opened(folder, batch)
            if not self._expunge(there):
                return self._mark(batch)
        except FolderGoneError:
            pass  # the folder and its messages are gone
        with self._run.transaction(durable=True) as connection:
            remove_messages(connection, self._run.account, [message.id for message in batch])
        return 0

    def _move_at_once(self, messages: list[Target], trash: Folder) -> Moved | None:
        """Move the messages with MOVE. None where the server has no MOVE, or offers MOVE and refuses it."""
        if removal.can_move(self._imap):
            try:
                return removal.move(self._imap, _uids(messages), trash.path)
            except NotUnderstoodError:
                self._imap.refuse("MOVE")
        return None

    def _expunge(self, messages: list[Target]) -> bool:
        """Mark the messages as deleted and remove them. False where they can only be marked, because removing would
        remove other marked messages too."""
        removal.mark_deleted(self._imap, _uids(messages))
        if removal.can_remove(self._imap):
            try:
                removal.remove(self._imap, _uids(messages))
            except NotUnderstoodError:
                self._imap.refuse("UIDPLUS")
        return removal.can_remove(self._imap)

    def _mark(self, batch: list[Target]) -> int:
        with self._run.transaction(durable=True) as connection:
            mark_messages(connection, self._run.account, [message.id for message in batch])
        return len(batch)

    def _copy(self, batch: list[Target], copied: Moved, trash: Folder) -> Moved:
        """Copy the messages to Trash, except those that an earlier run copied without removing the originals."""
        rest = [message for message in batch if message.imap_uid not in copied.uids]
        return removal.copy(self._imap, _uids(rest), trash.path)

    def _opened(self, folder: Folder, batch: list[Target]) -> _Opened:
        """Open the folder, and find the UIDs that the messages of the batch have now. Raises FolderGoneError."""
        try:
            opened = self._imap.select(folder.path, writable=True)
        except CommandRefusedError as error:
            # Few servers say with a code that the folder is missing, so LIST is asked.
            if folder.path in {listed.path for listed in self._imap.list_folders()[0]}:
                raise
            raise FolderGoneError(folder.name) from error
        there, others = self._compared(batch, opened)
        if others or (len(there) < len(batch) and is_another(self._run, self._imap, folder, opened)):
            # The folder has other UIDs now, or another folder has its name: the code of the sync can tell which.
            folder = find_again(self._run, self._imap, folder)
            batch = [message for message in self._as_they_are_now(batch) if message.folder_id == folder.id]
            opened = self._imap.select(folder.path, writable=True)
            there, others = self._compared(batch, opened)
        self.left += [message for message in others if message not in self.left]
        return _Opened(folder, [message for message in batch if message not in others], there)

    def _compared(self, batch: list[Target], opened: FolderStatus) -> tuple[list[Target], list[Target]]:
        """In the open folder: the messages that the server has, and
        the messages whose UID is another message's or unknown."""
        # Hidden messages outside of the server's window, whose UIDs changed since: their new UIDs are not known.
        unnumbered = [m for m in batch if m.uidvalidity != opened.uidvalidity or (m.imap_uid or 0) < 1]
        batch = [message for message in batch if message not in unnumbered]
        seen = {envelope.uid: envelope for envelope in fetch_envelopes(self._imap, _uids(batch))}
        there = [m for m in batch if m.imap_uid in seen and is_same(m.envelope, seen[m.imap_uid])]
        # Ask once more for messages that did not come: those that the server does not have are gone.
        unknown = self._imap.fetch_sizes(_uids([message for message in batch if message.imap_uid not in seen]))
        others = [m for m in batch if m not in there and (m.imap_uid in seen or m.imap_uid in unknown)]
        return there, others + unnumbered

    def _as_they_are_now(self, messages: list[Target]) -> list[Target]:
        """Read the messages' UIDs again, now that this run has the lease: a sync before may have changed them."""
        account = self._run.account
        with self._run.transaction() as connection:
            return find_messages(connection, account.tenant_id, account.user_id, [m.id for m in messages])

    def _by_its_path_now(self, folder: Folder) -> Folder:
        with self._run.transaction() as connection:
            known = load_folders(connection, self._run.account, None).values()
        return next((one for one in known if one.id == folder.id), folder)

    def _known_trash(self) -> Folder | None:
        """The account's Trash as the last sync stored it."""
        with self._run.transaction() as connection:
            return _of_type_trash(load_folders(connection, self._run.account, None).values())

    def _trash_of(self, listed: list[ListedFolder], statuses: dict[str, FolderStatus]) -> Folder:
        """The account's Trash by the server's present list of folders, which is stored; made if there is none.

        Raises NoTrashError.
        """
        # Store the list without Trash first, so that a new Trash
        # at the same path does not keep the old Trash's messages.
        found = _of_type_trash(reconcile(self._run, self._imap, listed, statuses))
        if not found and FolderType.TRASH not in classify(listed).values():
            try:
                make_folder(self._imap, _NEW_TRASH)
            except CommandRefusedError as error:
                raise NoTrashError(error.detail) from error
            found = _of_type_trash(reconcile(self._run, self._imap, *self._imap.list_folders()))
        if not found:
            raise NoTrashError(self._run.account.account_name)
        return found


def _of_type_trash(folders: Iterable[Folder]) -> Folder | None:
    return next((folder for folder in folders if folder.type == FolderType.TRASH and folder.is_selectable), None)


def _batches(messages: list[Target], size: int) -> Iterator[list[Target]]:
    """Batches of messages, each of one folder."""
    for _, group in groupby(sorted(messages, key=attrgetter("folder_id")), attrgetter("folder_id")):
        of_folder = list(group)
        for start in range(0, len(of_folder), size):
            yield of_folder[start : start + size]


def _uids(batch: list[Target]) -> UidSet:
    return UidSet.of(message.imap_uid for message in batch if message.imap_uid is not None)
