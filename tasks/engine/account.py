"""Brings an account's folders in line with the server's, then the messages of each."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from celery.exceptions import SoftTimeLimitExceeded

from tasks.engine.folder import sync_folder
from tasks.engine.renames import find_renames
from tasks.engine.run import HandOnError, Progress, Run, Tally
from tasks.errors import (
    AuthenticationFailedError,
    EmailError,
    FoldersFailedError,
    InternalError,
    LeaseLostError,
    NotFoundError,
    ProtocolError,
    StorageUnavailableError,
    UnsupportedProtocolError,
)
from tasks.mail.folders import ListedFolder, classify
from tasks.mail.imap import Endpoint, FetchRefusedError, FolderGoneError, ImapConnection
from tasks.mail.imap_responses import FolderStatus
from tasks.settings import get_settings
from tasks.storage.accounts import Account, read_password, record_failure, record_success
from tasks.storage.changes import release_quarantined
from tasks.storage.folders import (
    Folder,
    NewFolder,
    add_folders,
    change_folder,
    load_folders,
    remove_folders,
)
from tasks.storage.leases import owner_of, release_lease, take_lease

logger = logging.getLogger(__name__)

# What a person looks at first is there first.
_ORDER = ("inbox", "sent", "drafts", "custom", "archive", "spam", "trash")

# What a server would not give is asked for again this often: it may have been the server's bad day.
_TRY_AGAIN_HOURS = 6

_LONGEST_COMPLAINT = 500


class SyncRequest(NamedTuple):
    """Whose mail to sync: all folders, or one.

    With `full_since` (Unix time), each folder that was not compared UID by UID and flag by flag since then is.
    """

    email_client_id: str
    tenant_id: str
    user_id: str
    folder_id: str | None = None
    full_since: float | None = None


def sync_account(
    request: SyncRequest, task_id: str, tally: Tally, budget_seconds: float, report: Callable[[Progress], None]
) -> bool:
    """Sync for about `budget_seconds` at most, adding what is done to `tally`; whether all is done.

    Raises LeaseHeldError while another run is at it, NotFoundError for what is not the caller's, and the other errors
    of server and storage, which are kept on the account as well.
    """
    settings = get_settings().sync
    owner = owner_of(task_id)
    deadline = time.monotonic() + budget_seconds
    account = take_lease(request.tenant_id, request.user_id, request.email_client_id, owner, settings.lease_seconds)
    run = Run(
        account=account,
        lease_owner=owner,
        settings=settings,
        deadline=deadline,
        full_since=request.full_since,
        tally=tally,
        progress=Progress(messages_synced=tally.total("synced")),
        report=report,
    )
    with _leased(run):
        try:
            _sync(run, request.folder_id)
        except HandOnError:
            return False
    return True


def endpoint_of(account: Account) -> Endpoint:
    """Where the account's IMAP server is. Raises UnsupportedProtocolError for another protocol."""
    if account.protocol != "imap":
        raise UnsupportedProtocolError(account.protocol)
    settings = get_settings().sync
    return Endpoint(
        hostname=account.hostname,
        port=account.port,
        encryption=account.encryption,
        username=account.username,
        timeout=settings.mail_timeout,
        ssl_verify=settings.ssl_verify,
        max_literal=settings.max_message_bytes,
    )


@contextmanager
def connected(account: Account) -> Iterator[ImapConnection]:
    """A connection to the account's server, closed afterwards."""
    imap = ImapConnection(endpoint_of(account), read_password(account))
    try:
        yield imap
    except BaseException:
        imap.abandon()
        raise
    imap.close()


@contextmanager
def _leased(run: Run) -> Iterator[None]:
    """Keeps errors on the account, and gives the lease back whatever happens."""
    try:
        yield
    except (LeaseLostError, NotFoundError):
        raise
    except EmailError as error:
        with _if_storage_lets_us():
            record_failure(run.account, error, pause=isinstance(error, AuthenticationFailedError))
        raise
    except (HandOnError, SoftTimeLimitExceeded):
        raise
    except Exception as error:
        with _if_storage_lets_us():
            record_failure(run.account, InternalError(type(error).__name__), pause=False)
        raise
    finally:
        with _if_storage_lets_us():
            release_lease(run.account, run.lease_owner)


@contextmanager
def _if_storage_lets_us() -> Iterator[None]:
    # Without PostgreSQL nothing can be noted; the lease runs out by itself, and the error at hand matters more.
    try:
        yield
    except StorageUnavailableError as error:
        logger.warning("could not note the end of a sync: %s", error)


def _sync(run: Run, folder_id: str | None) -> None:
    started = time.monotonic()
    with connected(run.account) as imap:
        run.tally.connect_seconds += time.monotonic() - started
        listed, statuses = imap.list_folders()
        if not listed:
            raise ProtocolError("LIST named no folder, not even INBOX")
        folders = _reconcile(run, imap, listed, statuses)
        chosen = _chosen(folders, folder_id)
        run.show(folders_total=len(chosen))
        for number, folder in enumerate(chosen):
            if number:
                run.check_deadline()
            run.show(folder=folder.name, folders_done=number)
            run.keep_lease()
            try:
                sync_folder(run, imap, folder, statuses.get(folder.path))
                run.tally.failed_folders.pop(folder.name, None)
            except FolderGoneError:
                with run.transaction() as connection:
                    run.tally.deleted_with_folders += remove_folders(connection, run.account, [folder.id])
            except FetchRefusedError as error:
                # One folder that cannot be opened keeps no other from its mail.
                run.tally.failed_folders[folder.name] = error.detail
        run.show(folder="", folders_done=len(chosen))
    # Waits for the disk, and with it all batches before: only then is the task acknowledged.
    with run.transaction(durable=True) as connection:
        record_success(connection, run.account, whole_account=folder_id is None)
    if failed := run.tally.failed_folders:
        words = "; ".join(f"{name}: {why}" for name, why in failed.items())
        record_failure(run.account, FoldersFailedError(words[:_LONGEST_COMPLAINT]), pause=False)


def _chosen(folders: list[Folder], folder_id: str | None) -> list[Folder]:
    if folder_id is not None:
        chosen = [folder for folder in folders if folder.id == folder_id and folder.is_selectable]
        if not chosen:
            raise NotFoundError("folder")
        return chosen
    selectable = [folder for folder in folders if folder.is_selectable]
    return sorted(selectable, key=lambda folder: (_ORDER.index(folder.type), folder.name))


def _reconcile(
    run: Run, imap: ImapConnection, listed: list[ListedFolder], statuses: dict[str, FolderStatus]
) -> list[Folder]:
    """Add, rename, change and remove our folders until they are the server's."""
    types = classify(listed)
    on_server = {
        folder.path: NewFolder(folder.path, folder.name, folder.delimiter, types[folder.path], folder.is_selectable)
        for folder in listed
    }
    with run.transaction() as connection:
        release_quarantined(connection, run.account, _TRY_AGAIN_HOURS)
        ours = load_folders(connection, run.account, run.full_since)
    # A folder that can no longer be opened holds no messages any more: it starts anew, empty.
    emptied = {p for p, f in ours.items() if p in on_server and f.total_count and not on_server[p].is_selectable}
    gone = [folder for path, folder in ours.items() if path not in on_server or path in emptied]
    new = [path for path in on_server if path not in ours or path in emptied]
    renames = find_renames(run, imap, gone, new, statuses)
    with run.transaction() as connection:
        for folder, path in renames:
            change_folder(connection, run.account, folder.id, on_server[path]._asdict())
        renamed = {folder.id for folder, _ in renames}
        taken = {path for _, path in renames}
        run.tally.deleted_with_folders += remove_folders(
            connection, run.account, [folder.id for folder in gone if folder.id not in renamed]
        )
        add_folders(connection, run.account, [on_server[path] for path in new if path not in taken])
        for path, folder in ours.items():
            if path in on_server and path not in emptied and _differs(folder, on_server[path]):
                change_folder(connection, run.account, folder.id, on_server[path]._asdict())
        return list(load_folders(connection, run.account, run.full_since).values())


def _differs(folder: Folder, listed: NewFolder) -> bool:
    return any(getattr(folder, name) != value for name, value in listed._asdict().items())
