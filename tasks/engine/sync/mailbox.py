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
from tasks.mail.imap.session import FetchRefusedError
from tasks.storage.messages.changes import release_quarantined
from tasks.storage.messages.folders import (
    Folder,
    NewFolder,
    add_folders,
    change_folder,
    file_now,
    load_folders,
    remove_folders,
)

logger = logging.getLogger(__name__)

# Stands among the folders that failed for those whose names could not be read.
_UNREAD_NAMES = "folders"
_MAX_SHOWN_LENGTH = 100

# What a person looks at first is there first.
_ORDER = ("inbox", "sent", "drafts", "custom", "archive", "spam", "trash")

# What a server would not give is asked for again this often: it may have been the server's bad day.
TRY_AGAIN_HOURS = 6


def sync_mailbox(run: Run, imap: ImapConnection, folder_id: str | None) -> None:
    """Sync all folders, or one. Raises CutShortError when its time is used up, and what server and storage raise."""
    try:
        _sync_folders(run, imap, folder_id, None)
    except AnotherFolderError as error:
        # What LIST says did not show it: the folders are told apart by what is in them, and all are looked at again.
        _sync_folders(run, imap, folder_id, error.path)


def find_again(run: Run, imap: ImapConnection, folder: Folder) -> Folder:
    """Sync a folder that may have another name, or whose messages may have other UIDs, every message compared.

    Raises FolderGoneError, and what `sync_folder` raises.
    """
    folders = reconcile(run, imap, *imap.list_folders(), another={folder.path})
    found = next((one for one in folders if one.id == folder.id and one.is_selectable), None)
    if found is None:
        raise FolderGoneError(folder.name)
    sync_folder(run, imap, found, None, is_identified=True, full=True)
    return found


def _sync_folders(run: Run, imap: ImapConnection, folder_id: str | None, another: str | None) -> None:
    """With `another`, the path of a folder that is not the one we know, nothing that is found to be so is doubted."""
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
        except FetchRefusedError as error:
            if isinstance(error, FolderGoneError) and _is_gone_again(imap, folder.path):
                with run.transaction() as connection:
                    run.tally.deleted_with_folders += remove_folders(connection, run.account, [folder.id])
                continue
            # One folder that cannot be opened keeps no other from its mail.
            run.tally.failed_folders[folder.name] = error.detail
            with run.transaction() as connection:
                change_folder(connection, run.account, folder.id, refused(folder, statuses.get(folder.path)))
    run.show(folder="", folders_done=len(chosen))


def _is_gone_again(imap: ImapConnection, path: str) -> bool:
    """Whether a folder that is listed, and was said not to exist when it was opened, is said so a second time."""
    try:
        imap.select(path)
    except FetchRefusedError as error:
        return isinstance(error, FolderGoneError)
    return False


def _note_unread_names(run: Run, lines: Sequence[bytes]) -> None:
    run.tally.failed_folders.pop(_UNREAD_NAMES, None)
    if lines:
        logger.warning("%s: LIST gave %d lines that cannot be read", run.account.account_name, len(lines))
        first = lines[0][:_MAX_SHOWN_LENGTH]
        run.tally.failed_folders[_UNREAD_NAMES] = f"the server names {len(lines)} that cannot be read: {first!r}"


def make_folder(imap: ImapConnection, name: str) -> str:
    """Make a folder at the top, or where that is refused below INBOX, and give its path. Raises FetchRefusedError."""
    try:
        imap.create_folder(name)
    except FetchRefusedError:
        # A server that has everything below INBOX.
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
        # What it shows is kept elsewhere.
    # New ones last: before anything is fetched, it shows whether a folder that we know has got that name.
    return sorted(selectable, key=lambda folder: (folder.uidvalidity is None, _ORDER.index(folder.type), folder.name))


def reconcile(
    run: Run,
    imap: ImapConnection,
    listed: list[ListedFolder],
    statuses: Mapping[str, FolderStatus],
    another: Collection[str] = (),
) -> list[Folder]:
    """Add, rename, change and remove our folders until they are the server's. Raises ProtocolError for no folder.

    A folder that LIST does not name is removed only when the server, asked for it by name, says that it is not there.

    Under the paths `another` there may be other folders than ours, which may have other names.
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
    # A folder that can no longer be opened holds no messages any more: it starts anew, empty.
    emptied = {p for p, f in ours.items() if p in on_server and f.total_count and not on_server[p].is_selectable}
    places = _places(run, imap, ours, {p: f for p, f in on_server.items() if p not in emptied}, statuses, another)
    homeless = [folder for folder in ours.values() if folder.id not in places]
    # A folder that LIST does not name may be there all the same.
    removed = [folder.id for folder in homeless if folder.path in on_server or imap.is_gone(folder.path)]
    moving = [folder for folder in ours.values() if places.get(folder.id, folder.path) != folder.path]
    taken = set(places.values())
    with run.transaction() as connection:
        run.tally.deleted_with_folders += remove_folders(connection, run.account, removed)
        for folder in moving:
            # The path that it is to have may still be another's.
            change_folder(connection, run.account, folder.id, {"path": f"\n{folder.id}"})
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
    """The path that each stored folder has now, by its id; folders without a path are left out."""
    there = {path: folder for path, folder in ours.items() if path in on_server}
    opened = {path: folder for path, folder in there.items() if on_server[path].is_selectable}
    is_moving = bool(another) or any(f.total_count or f.mailbox_id for p, f in ours.items() if p not in there)
    if is_moving:
        statuses = {**statuses, **_states(imap, opened.keys() - statuses.keys())}
    dubious = dubious_paths(opened, statuses, is_moving=is_moving) | (opened.keys() & set(another))
    if is_moving:
        # The one that is looked for may have been added under its new name, which is not synced yet.
        dubious |= {path for path, folder in opened.items() if folder.uidvalidity is None}
    searched = [folder for path, folder in ours.items() if path not in there or path in dubious]
    # What only shows messages of others holds those of any.
    holding = {path for path, folder in on_server.items() if folder.is_selectable and not folder.is_view}
    free = [path for path in holding if (path not in ours or path in dubious)]
    places = find_places(run, imap, searched, free)
    taken = set(places.values())
    # What is found nowhere stays where it was, if no other has that place: its messages may be there, or be gone.
    stay = {f.id: p for p, f in there.items() if f.id not in places and (p not in dubious or p not in taken)}
    return places | stay


def _states(imap: ImapConnection, paths: Collection[str]) -> dict[str, FolderStatus]:
    """What the server says of folders by themselves, where it says anything."""
    states = {path: imap.status(path) for path in paths}
    return {path: state for path, state in states.items() if state}


def _adopt(connection: Connection, run: Run, folder: Folder, listed: NewFolder) -> None:
    """Have a folder be what the server says that it is."""
    change_folder(connection, run.account, folder.id, listed._asdict())
    if listed.type == "trash" and folder.type != "trash":
        # What is in it has been in Trash since now, as far as TRASH_RETENTION_DAYS goes.
        file_now(connection, run.account, folder.id)


def _differs(folder: Folder, listed: NewFolder) -> bool:
    return any(getattr(folder, name) != value for name, value in listed._asdict().items())
