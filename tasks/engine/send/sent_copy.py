"""The Sent copy of a message: looked for in the Sent folder, filed there unless the provider does so, and stored.

A provider that files copies by itself is left to do so. At other providers the folder is searched for the Message-ID
first, so that a copy is filed only if there is none yet, whoever made it.

The copy becomes one row. If the server says which UID the copy got (UIDPLUS), the copy is stored under that UID at
once, where a sync finds it; if not, the next sync brings the copy like any other message.
"""

from datetime import timedelta

from tasks.engine.connection_cache import lent_imap
from tasks.engine.sync.mailbox import make_folder
from tasks.errors import LeaseHeldError
from tasks.mail.imap.commands import ImapConnection
from tasks.mail.imap.flags import read_flags
from tasks.mail.imap.folders import classify
from tasks.mail.imap.responses import AppendedUid
from tasks.mail.imap.uidset import UidSet
from tasks.mail.kinds import FolderType, MailProtocol
from tasks.mail.parse.message import parse
from tasks.mail.session import CommandRefusedError
from tasks.storage.accounts.leases import owner_of, release_lease, renew_lease, take_lease
from tasks.storage.accounts.rows import Account
from tasks.storage.messages.arrivals import prepare
from tasks.storage.messages.batch import Batch, UidNumbering, store_batch
from tasks.storage.messages.changes import missing_uids
from tasks.storage.messages.folders import load_folders
from tasks.storage.outbox import Outgoing
from tasks.storage.session import tenant_transaction

# The submission servers of Google and Microsoft, which put a copy into the Sent folder themselves. Their relays, such
# as smtp-relay.gmail.com and *.mail.protection.outlook.com, have no mailboxes and file no copies.
_FILES_BY_ITSELF = {
    "smtp.gmail.com", "smtp.googlemail.com",
    "smtp.office365.com", "smtp-legacy.office365.com", "outlook.office365.com", "smtp.office365.us",
    "smtp.partner.outlook.cn", "smtp-mail.outlook.com", "smtp.live.com",
}  # fmt: skip

# How many days before the message to search from: by the server's clock and time zone the date may be another.
_MARGIN = timedelta(days=2)
# How long the lease for storing the copy lasts; a sync that comes meanwhile waits no longer than this.
_LEASE_SECONDS = 5
_SEEN = "\\Seen"
_NEW_FOLDER = "Sent"


def wants_copy(account: Account) -> bool:
    """Whether the worker has to file a copy. A POP3 account has no folder for copies."""
    if account.protocol != MailProtocol.IMAP or account.sent_copies != "auto":
        return account.protocol == MailProtocol.IMAP and account.sent_copies == "append"
    return (account.smtp_hostname or "").lower() not in _FILES_BY_ITSELF


def has_copy(account: Account, outgoing: Outgoing) -> bool:
    """Whether the message is in the Sent folder. Raises UnsupportedProtocolError for an account without folders."""
    with lent_imap(account) as imap:
        return _open_folder(account, imap) is not None and _is_there(imap, outgoing)


def file_copy(account: Account, outgoing: Outgoing, raw: bytes) -> None:
    """Make sure that a copy is in the Sent folder, which is made if there is none.

    Calling this again makes no second copy.
    """
    with lent_imap(account) as imap:
        path = _open_folder(account, imap)
        if path is None:
            path = make_folder(imap, _NEW_FOLDER)
            imap.select(path)
        if _is_there(imap, outgoing):
            return
        appended = imap.append(path, _SEEN, outgoing.created_at, raw)
    if appended is not None:
        _store(account, outgoing, raw, path, appended)


def _is_there(imap: ImapConnection, outgoing: Outgoing) -> bool:
    return imap.find_by_message_id(outgoing.message_id, (outgoing.created_at - _MARGIN).date())


def _open_folder(account: Account, imap: ImapConnection) -> str | None:
    """Open the Sent folder and return its path: as the last sync stored it, else as the server lists it now."""
    with tenant_transaction(account.tenant_id) as connection:
        folders = load_folders(connection, account, None).values()
    known = next((folder.path for folder in folders if folder.type == FolderType.SENT and folder.is_selectable), None)
    refusal: CommandRefusedError | None = None
    if known is not None:
        try:
            imap.select(known)
        except CommandRefusedError as error:
            refusal = error
        else:
            return known
    listed, _ = imap.list_folders()
    selectable = {folder.path for folder in listed if folder.is_selectable}
    if refusal and known in selectable:
        raise refusal
    kinds = classify(listed)
    path = next((path for path in kinds if kinds[path] == FolderType.SENT and path in selectable), None)
    if path is not None:
        imap.select(path)
    return path


def _store(account: Account, outgoing: Outgoing, raw: bytes, path: str, appended: AppendedUid) -> None:
    """Store the filed copy, unless a sync of the account is under way: then that sync or the next brings the copy."""
    run = owner_of(f"copy of {outgoing.id}")
    try:
        take_lease(account.tenant_id, account.user_id, account.id, run, _LEASE_SECONDS)
    except LeaseHeldError:
        return
    try:
        flags = read_flags((_SEEN,), FolderType.SENT)
        received_at = outgoing.created_at.replace(microsecond=0)  # as INTERNALDATE is
        arrival = prepare(appended.uid, flags, received_at, len(raw), raw, parse(raw), None)
        with tenant_transaction(account.tenant_id) as connection:
            folder = load_folders(connection, account, None).get(path)
            if folder is None or folder.uidvalidity != appended.uidvalidity or appended.uid < folder.uidnext:
                # The folder was never synced, or has another UIDVALIDITY,
                # or the UID is stored already: a sync brings the copy.
                return
            if missing_uids(connection, account, folder, UidSet.of([appended.uid]), appended.uid).ranges:
                # The checkpoint stays: messages with lower UIDs may not be stored yet.
                store_batch(
                    connection, account, folder.id, UidNumbering(appended.uidvalidity), Batch((arrival,), (), 1)
                )
            renew_lease(connection, account, run, _LEASE_SECONDS)
    finally:
        release_lease(account.tenant_id, account.id, run)
