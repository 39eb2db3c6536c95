"""Brings the folders of an IMAP account in line with the server's, then the messages of each."""

import logging

from sqlalchemy import Connection

from tasks.engine.folder import sync_folder
from tasks.engine.gmail import hold_no_messages, label_folders
from tasks.engine.renames import find_renames
from tasks.engine.run import Run
from tasks.errors import NotFoundError, ProtocolError
from tasks.mail.folders import ListedFolder, classify
from tasks.mail.imap import FolderGoneError, ImapConnection
from tasks.mail.imap_responses import FolderStatus
from tasks.mail.imap_session import FetchRefusedError
from tasks.storage.changes import release_quarantined
from tasks.storage.folders import (
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
_LONGEST_SHOWN = 100

# What a person looks at first is there first.
_ORDER = ("inbox", "sent", "drafts", "custom", "archive", "spam", "trash")

# What a server would not give is asked for again this often: it may have been the server's bad day.
TRY_AGAIN_HOURS = 6


def sync_mailbox(run: Run, imap: ImapConnection, folder_id: str | None) -> None:
    """Sync all folders, or one. Raises HandOnError when the time is used up, and the errors of server and storage."""
    listed, statuses = imap.list_folders()
    _note_unread_names(run, imap.unread_names)
    labels = label_folders(imap, listed)
    folders = reconcile(run, imap, listed, statuses)
    if labels:
        hold_no_messages(run, [folder for folder in folders if folder.path in labels], statuses)
    chosen = _chosen(folders, folder_id, labels)
    run.show(folders_total=len(chosen))
    for number, folder in enumerate(chosen):
        if number:
            run.check_deadline()
        run.show(folder=folder.name, folders_done=number)
        run.keep_lease()
        try:
            sync_folder(run, imap, folder, statuses.get(folder.path))
            run.tally.failed_folders.pop(folder.name, None)
        except FetchRefusedError as error:
            if isinstance(error, FolderGoneError) and imap.is_gone(folder.path):
                with run.transaction() as connection:
                    run.tally.deleted_with_folders += remove_folders(connection, run.account, [folder.id])
                continue
            # One folder that cannot be opened keeps no other from its mail.
            run.tally.failed_folders[folder.name] = error.detail
    run.show(folder="", folders_done=len(chosen))


def _note_unread_names(run: Run, lines: list[bytes]) -> None:
    run.tally.failed_folders.pop(_UNREAD_NAMES, None)
    if lines:
        logger.warning("%s: LIST gave %d lines that cannot be read", run.account.account_name, len(lines))
        first = lines[0][:_LONGEST_SHOWN]
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
    return sorted(selectable, key=lambda folder: (_ORDER.index(folder.type), folder.name))


def reconcile(
    run: Run, imap: ImapConnection, listed: list[ListedFolder], statuses: dict[str, FolderStatus]
) -> list[Folder]:
    """Add, rename, change and remove our folders until they are the server's. Raises ProtocolError for no folder.

    A folder that LIST does not name is removed only when the server, asked for it by name, says that it is not there.
    """
    if not listed:
        raise ProtocolError("LIST named no folder, not even INBOX")
    types = classify(listed)
    on_server = {
        folder.path: NewFolder(folder.path, folder.name, folder.delimiter, types[folder.path], folder.is_selectable)
        for folder in listed
    }
    with run.transaction() as connection:
        release_quarantined(connection, run.account, TRY_AGAIN_HOURS)
        ours = load_folders(connection, run.account, run.full_since)
    # A folder that can no longer be opened holds no messages any more: it starts anew, empty.
    emptied = {p for p, f in ours.items() if p in on_server and f.total_count and not on_server[p].is_selectable}
    gone = [folder for path, folder in ours.items() if path not in on_server or path in emptied]
    new = [path for path in on_server if path not in ours or path in emptied]
    renames = find_renames(run, imap, gone, new, statuses)
    renamed = {folder.id for folder, _ in renames}
    removed = [f.id for f in gone if f.id not in renamed and (f.path in emptied or imap.is_gone(f.path))]
    with run.transaction() as connection:
        for folder, path in renames:
            _adopt(connection, run, folder, on_server[path])
        taken = {path for _, path in renames}
        run.tally.deleted_with_folders += remove_folders(connection, run.account, removed)
        add_folders(connection, run.account, [on_server[path] for path in new if path not in taken])
        for path, folder in ours.items():
            if path in on_server and path not in emptied and _differs(folder, on_server[path]):
                _adopt(connection, run, folder, on_server[path])
        return list(load_folders(connection, run.account, run.full_since).values())


def _adopt(connection: Connection, run: Run, folder: Folder, listed: NewFolder) -> None:
    """Have a folder be what the server says that it is."""
    change_folder(connection, run.account, folder.id, listed._asdict())
    if listed.type == "trash" and folder.type != "trash":
        # What is in it has been in Trash since now, as far as TRASH_RETENTION_DAYS goes.
        file_now(connection, run.account, folder.id)


def _differs(folder: Folder, listed: NewFolder) -> bool:
    return any(getattr(folder, name) != value for name, value in listed._asdict().items())
