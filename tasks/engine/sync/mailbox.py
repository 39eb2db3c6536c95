"""Brings the folders of an IMAP account in line with the server's, then the messages of each."""

import logging
from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import Connection

from tasks.engine.run import Run
from tasks.engine.sync.completeness import refused
from tasks.engine.sync.folder import AnotherFolderError, sync_folder
from tasks.engine.sync.gmail import hold_no_messages, label_folders
from tasks.engine.sync.identity import dubious_paths, find_places, twins
from tasks.engine.sync.views import left_out
from tasks.errors import NotFoundError, ProtocolError
from tasks.mail.imap.commands import FolderGoneError, ImapConnection
from tasks.mail.imap.folders import ListedFolder, classify
from tasks.mail.imap.responses import FolderStatus
from tasks.mail.kinds import FolderType
from tasks.mail.session import CommandRefusedError
from tasks.storage.messages.changes import release_quarantined
from tasks.storage.messages.folders import (
    Folder,
    NewFolder,
    add_folders,
    adopt_folder,
    change_folder,
    file_now,
    load_folders,
    remove_folders,
    vacate_path,
)

logger = logging.getLogger(__name__)

# The key in `failed_folders` for folders whose names could not be read.
_UNREAD_NAMES = "folders"
_MAX_SHOWN_LENGTH = 100

# The order in which types of folders are synced: those that a person looks at first come first.
_ORDER = (
    FolderType.INBOX,
    FolderType.SENT,
    FolderType.DRAFTS,
    FolderType.CUSTOM,
    FolderType.ARCHIVE,
    FolderType.SPAM,
    FolderType.TRASH,
)

# How often messages that the server refused to give are asked for again; the reason may have been temporary.
TRY_AGAIN_HOURS = 6


def sync_mailbox(run: Run, imap: ImapConnection, folder_id: str | None) -> None:
    """Sync all folders, or one. Raises CutShortError when the
    run's time is used up, and errors of server and storage."""
    try:
        _sync_folders(run, imap, folder_id, None)
    except AnotherFolderError as error:
        # The states in LIST did not show that this is another folder. So all folders are looked at again, and are
        # told apart by their messages.
        _sync_folders(run, imap, folder_id, error.path)


def find_again(run: Run, imap: ImapConnection, folder: Folder) -> Folder:
    """Sync a folder that may have another name, or whose messages may have other UIDs, comparing every message.

    Raises FolderGoneError, and what `sync_folder` raises.
    """
    folders = reconcile(run, imap, *imap.list_folders(), another={folder.path})
    found = next((one for one in folders if one.id == folder.id and one.is_selectable), None)
    if found is None:
        raise FolderGoneError(folder.name)
    sync_folder(run, imap, found, None, is_identified=True, full=True)
    return found


def _sync_folders(run: Run, imap: ImapConnection, folder_id: str | None, another: str | None) -> None:
    """List the folders and sync them.

    `another` is the path under which the server was found to have another folder than the stored one. With it,
    folders are identified by their messages first and not doubted a second time.
    """
    listed, statuses = imap.list_folders()
    _note_unread_names(run, imap.unread_names)
    labels = label_folders(imap, listed)
    folders = reconcile(run, imap, listed, statuses, another={another} if another else ())
    labels |= left_out(run.account, folders)
    if labels:
        hold_no_messages(run, [folder for folder in folders if folder.path in labels], statuses)
    chosen = _chosen(folders, folder_id, labels)
    alike = twins(folders)
    run.show(folders_total=len(chosen))
    for number, folder in enumerate(chosen):
        if number:
            run.check_deadline()
        run.show(folder=folder.name, folders_done=number)
        run.keep_lease()
        try:
            status = None if folder.id in alike else statuses.get(folder.path)
            sync_folder(run, imap, folder, status, is_identified=another is not None)
            run.tally.failed_folders.pop(folder.name, None)
        except CommandRefusedError as error:
            if isinstance(error, FolderGoneError) and _is_gone_again(imap, folder.path):
                with run.transaction() as connection:
                    run.tally.deleted_with_folders += remove_folders(connection, run.account, [folder.id])
                continue
            # A folder that cannot be opened does not keep the other folders from being synced.
            run.tally.failed_folders[folder.name] = error.detail
            with run.transaction() as connection:
                change_folder(connection, run.account, folder.id, refused(folder, statuses.get(folder.path)))
    run.show(folder="", folders_done=len(chosen))


def _is_gone_again(imap: ImapConnection, path: str) -> bool:
    """Whether the server says a second time that a folder does not exist, which it lists."""
    try:
        imap.select(path)
    except CommandRefusedError as error:
        return isinstance(error, FolderGoneError)
    return False


def _note_unread_names(run: Run, lines: Sequence[bytes]) -> None:
    run.tally.failed_folders.pop(_UNREAD_NAMES, None)
    if lines:
        logger.warning("LIST gave %d lines that cannot be read", len(lines))
        first = lines[0][:_MAX_SHOWN_LENGTH]
        run.tally.failed_folders[_UNREAD_NAMES] = f"the server names {len(lines)} that cannot be read: {first!r}"


def make_folder(imap: ImapConnection, name: str) -> str:
    """Make a folder at the top level, or below INBOX if the server refuses that.

    Returns its path. Raises CommandRefusedError.
    """
    try:
        imap.create_folder(name)
    except CommandRefusedError:
        # The server may want all folders below INBOX.
        listed, _ = imap.list_folders()
        delimiter = next((folder.delimiter for folder in listed if folder.path.upper() == "INBOX"), None)
        if delimiter is None:
            raise
        path = f"INBOX{delimiter}{name}"
        imap.create_folder(path)
        return path
    return name


def _chosen(folders: list[Folder], folder_id: str | None, labels: frozenset[str]) -> list[Folder]:
    selectable = [folder for folder in folders if folder.is_selectable and folder.path not in labels]
    if folder_id is not None:
        chosen = [folder for folder in folders if folder.id == folder_id and folder.is_selectable]
        if not chosen:
            raise NotFoundError("folder")
        if chosen[0].path not in labels:
            return chosen
        # The folder only shows messages of other folders, so the other folders are synced.
    # New folders come last, so that a stored folder that was
    # renamed is recognised before its messages are fetched as new.
    return sorted(selectable, key=lambda folder: (folder.uidvalidity is None, _ORDER.index(folder.type), folder.name))


def reconcile(
    run: Run,
    imap: ImapConnection,
    listed: list[ListedFolder],
    statuses: Mapping[str, FolderStatus],
    another: Collection[str] = (),
) -> list[Folder]:
    """Bring the stored folders in line with the server's list. Raises ProtocolError if the list is empty.

    A folder that LIST does not name is removed only if the server,
    asked for the folder by its name, says that it does not exist.

    Under the paths `another` the server may have other folders
    than the stored ones, whose folders may have new names.
    """
    if not listed:
        raise ProtocolError("LIST named no folder, not even INBOX")
    types = classify(listed)
    on_server = {
        folder.path: NewFolder(
            folder.path,
            folder.name,
            folder.delimiter,
            types[folder.path],
            folder.is_selectable,
            folder.is_view and not imap.has_gmail_labels,
        )
        for folder in listed
    }
    with run.transaction() as connection:
        release_quarantined(connection, run.account, TRY_AGAIN_HOURS)
        ours = load_folders(connection, run.account, run.full_since)
    # A folder that can no longer be opened has no messages any more, so its row is replaced by an empty one.
    emptied = {p for p, f in ours.items() if p in on_server and f.total_count and not on_server[p].is_selectable}
    places = _places(run, imap, ours, {p: f for p, f in on_server.items() if p not in emptied}, statuses, another)
    homeless = [folder for folder in ours.values() if folder.id not in places]
    # A folder that LIST does not name may exist all the same, so the server is asked.
    removed = [folder.id for folder in homeless if folder.path in on_server or imap.is_gone(folder.path)]
    moving = [folder for folder in ours.values() if places.get(folder.id, folder.path) != folder.path]
    taken = set(places.values())
    with run.transaction() as connection:
        run.tally.deleted_with_folders += remove_folders(connection, run.account, removed)
        for folder in moving:
            # Each path is unique, and a new path may still belong to
            # another row: use a path that no folder has meanwhile.
            vacate_path(connection, run.account, folder)
        for folder in ours.values():
            path = places.get(folder.id)
            if path is not None and (folder in moving or _differs(folder, on_server[path])):
                _adopt(connection, run, folder, on_server[path])
        add_folders(connection, run.account, [folder for path, folder in on_server.items() if path not in taken])
        return list(load_folders(connection, run.account, run.full_since).values())


def _places(
    run: Run,
    imap: ImapConnection,
    ours: Mapping[str, Folder],
    on_server: Mapping[str, NewFolder],
    statuses: Mapping[str, FolderStatus],
    another: Collection[str],
) -> dict[str, str]:
    """By folder id, the path that each stored folder has on the server now.

    Folders that were not found are left out.
    """
    there = {path: folder for path, folder in ours.items() if path in on_server}
    opened = {path: folder for path, folder in there.items() if on_server[path].is_selectable}
    is_moving = bool(another) or any(f.total_count or f.mailbox_id for p, f in ours.items() if p not in there)
    if is_moving:
        statuses = {**statuses, **_states(imap, opened.keys() - statuses.keys())}
    dubious = dubious_paths(opened, statuses, is_moving=is_moving) | (opened.keys() & set(another))
    if is_moving:
        # The folder may already have a second row under its new name, added but not synced yet.
        dubious |= {path for path, folder in opened.items() if folder.uidvalidity is None}
    searched = [folder for path, folder in ours.items() if path not in there or path in dubious]
    # Views are left out: they show messages of every folder, so they would match any of them.
    holding = {path for path, folder in on_server.items() if folder.is_selectable and not folder.is_view}
    free = [path for path in holding if (path not in ours or path in dubious)]
    places = find_places(run, imap, searched, free)
    taken = set(places.values())
    # A folder that was not found keeps its path if no other folder
    # has taken the path: its messages may be there or gone.
    stay = {f.id: p for p, f in there.items() if f.id not in places and (p not in dubious or p not in taken)}
    return places | stay


def _states(imap: ImapConnection, paths: Collection[str]) -> dict[str, FolderStatus]:
    """The states of folders from STATUS, where the server gives them."""
    states = {path: imap.status(path) for path in paths}
    return {path: state for path, state in states.items() if state}


def _adopt(connection: Connection, run: Run, folder: Folder, listed: NewFolder) -> None:
    """Change a folder's row to what the server lists."""
    adopt_folder(connection, run.account, folder, listed)
    if listed.type == FolderType.TRASH and folder.type != FolderType.TRASH:
        # For TRASH_RETENTION_DAYS, the messages in this folder count as moved to Trash now.
        file_now(connection, run.account, folder.id)


def _differs(folder: Folder, listed: NewFolder) -> bool:
    return any(getattr(folder, name) != value for name, value in listed._asdict().items())
