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
from tasks.mail.imap.session import FetchRefusedError, NotUnderstoodError
from tasks.mail.imap.uidset import UidSet
from tasks.settings import get_settings
from tasks.storage.messages.deletions import Target, find_messages, mark_messages, move_messages, remove_messages
from tasks.storage.messages.folders import Folder, change_folder, load_folder, load_folders

_NEW_TRASH = "Trash"

# Gmail removes for good what it removes from here.
_LAST_STOPS = ("trash", "spam")


class _Opened(NamedTuple):
    """A folder that is open, the messages to delete in it, and those of them that were there a moment ago."""

    folder: Folder
    batch: list[Target]
    there: list[Target]


class ImapDeletion:
    """Deletes messages of one account. Each method gives the number of messages that could only be marked.

    Right before anything is done to a message, what the server has under its UID is compared with it. Where that is
    another message, the folder is looked for and all its messages are compared; what is another one still is `left`.
    """

    def __init__(self, run: Run, imap: ImapConnection) -> None:
        self._run, self._imap = run, imap
        self._found = Trash(run, imap)
        self._trash: Folder | None = None
        self._is_last_stop = True
        self.left: list[Target] = []

    def move_to_trash(self, messages: list[Target], *, is_last_stop: bool = True) -> int:
        """Into the account's Trash, which is made if there is none. Raises NoTrashError where it cannot be made.

        Where Trash is not the last stop, messages that cannot be found there again are only marked, here.
        """
        trash = self._trash = self._known_trash() or self._trash_of(*self._imap.list_folders())
        self._is_last_stop = is_last_stop
        outside = [message for message in self._as_they_are_now(messages) if message.folder_id != trash.id]
        return self._in_batches(outside, self._into_trash)

    def remove(self, messages: list[Target]) -> int:
        """For good."""
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
                # The batch before may have found the folder numbered anew.
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
        except FetchRefusedError:
            # Servers need not say by a code that it is the target that is missing ([TRYCREATE]).
            listed, statuses = self._imap.list_folders()
            if self._trash.path in {found.path for found in listed if found.is_selectable}:
                raise
        self._trash = self._trash_of(listed, statuses)
        # Folders that are gone have taken their messages along, and others may have new names.
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
            pass  # with its messages; they may be in Trash
        told = self._found.believed(told, trash, batch)
        moved = Moved(told.uidvalidity or copied.uidvalidity, copied.uids | told.uids)
        places = self._found.places(batch, moved, trash)
        moving = {m.id: places.uids[m.imap_uid] for m in batch if m.imap_uid in places.uids}
        strays = [message for message in batch if message.id not in moving]
        lost = [] if self._is_last_stop else perhaps_in_trash(strays, moved, places)
        with self._run.transaction(durable=True) as connection:
            if places.uidvalidity and trash.uidvalidity not in (None, places.uidvalidity):
                # Courier numbers a folder that never had a message anew each time that it is opened.
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
            pass  # with its messages
        with self._run.transaction(durable=True) as connection:
            remove_messages(connection, self._run.account, [message.id for message in batch])
        return 0

    def _move_at_once(self, messages: list[Target], trash: Folder) -> Moved | None:
        """None where the server has no MOVE, or turns out to have none."""
        if removal.can_move(self._imap):
            try:
                return removal.move(self._imap, _uids(messages), trash.path)
            except NotUnderstoodError:
                self._imap.refuse("MOVE")
        return None

    def _expunge(self, messages: list[Target]) -> bool:
        """Whether the server could remove these messages and no others; else they are only marked."""
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
        """Copy what an earlier run, which did not remove the originals, has not copied already."""
        rest = [message for message in batch if message.imap_uid not in copied.uids]
        return removal.copy(self._imap, _uids(rest), trash.path)

    def _opened(self, folder: Folder, batch: list[Target]) -> _Opened:
        """The folder, and the batch by the UIDs that its messages have now. Raises FolderGoneError."""
        try:
            opened = self._imap.select(folder.path, writable=True)
        except FetchRefusedError as error:
            # Few servers say by a code that it is the folder that is missing.
            if folder.path in {listed.path for listed in self._imap.list_folders()[0]}:
                raise
            raise FolderGoneError(folder.name) from error
        there, others = self._compared(batch, opened)
        if others or (len(there) < len(batch) and is_another(self._run, self._imap, folder, opened)):
            # The server numbers the folder anew, or another one has its name: the sync knows how to tell.
            folder = find_again(self._run, self._imap, folder)
            batch = [message for message in self._as_they_are_now(batch) if message.folder_id == folder.id]
            opened = self._imap.select(folder.path, writable=True)
            there, others = self._compared(batch, opened)
        self.left += [message for message in others if message not in self.left]
        return _Opened(folder, [message for message in batch if message not in others], there)

    def _compared(self, batch: list[Target], opened: FolderStatus) -> tuple[list[Target], list[Target]]:
        """In the open folder: messages that are there, and those whose UIDs belong to other or unknown messages."""
        # Outside of what a server with a window shows, and numbered anew since: their UIDs are not known.
        unnumbered = [m for m in batch if m.uidvalidity != opened.uidvalidity or (m.imap_uid or 0) < 1]
        batch = [message for message in batch if message not in unnumbered]
        seen = {envelope.uid: envelope for envelope in fetch_envelopes(self._imap, _uids(batch))}
        there = [m for m in batch if m.imap_uid in seen and is_same(m.envelope, seen[m.imap_uid])]
        # Asked once more: what is not there is gone, and may be forgotten.
        unknown = self._imap.fetch_sizes(_uids([message for message in batch if message.imap_uid not in seen]))
        others = [m for m in batch if m not in there and (m.imap_uid in seen or m.imap_uid in unknown)]
        return there, others + unnumbered

    def _as_they_are_now(self, messages: list[Target]) -> list[Target]:
        """By the UIDs that they have under the lease: a sync before it may have found folders numbered anew."""
        account = self._run.account
        with self._run.transaction() as connection:
            return find_messages(connection, account.tenant_id, account.user_id, [m.id for m in messages])

    def _by_its_path_now(self, folder: Folder) -> Folder:
        with self._run.transaction() as connection:
            known = load_folders(connection, self._run.account, None).values()
        return next((one for one in known if one.id == folder.id), folder)

    def _known_trash(self) -> Folder | None:
        """As the last sync knew it."""
        with self._run.transaction() as connection:
            return _of_type_trash(load_folders(connection, self._run.account, None).values())

    def _trash_of(self, listed: list[ListedFolder], statuses: dict[str, FolderStatus]) -> Folder:
        """As the server says now, whose folders ours become; made where there is none. Raises NoTrashError."""
        # First without it: a Trash of the same path that is made anew has none of the old one's messages.
        found = _of_type_trash(reconcile(self._run, self._imap, listed, statuses))
        if not found and "trash" not in classify(listed).values():
            try:
                make_folder(self._imap, _NEW_TRASH)
            except FetchRefusedError as error:
                raise NoTrashError(error.detail) from error
            found = _of_type_trash(reconcile(self._run, self._imap, *self._imap.list_folders()))
        if not found:
            raise NoTrashError(self._run.account.account_name)
        return found


def _of_type_trash(folders: Iterable[Folder]) -> Folder | None:
    return next((folder for folder in folders if folder.type == "trash" and folder.is_selectable), None)


def _batches(messages: list[Target], size: int) -> Iterator[list[Target]]:
    """Of one folder each."""
    for _, group in groupby(sorted(messages, key=attrgetter("folder_id")), attrgetter("folder_id")):
        of_folder = list(group)
        for start in range(0, len(of_folder), size):
            yield of_folder[start : start + size]


def _uids(batch: list[Target]) -> UidSet:
    return UidSet.of(message.imap_uid for message in batch if message.imap_uid is not None)
