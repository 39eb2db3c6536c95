"""The copy of a sent message in the account's Sent folder: looked for, filed where nobody else does, and stored.

A provider that files copies by itself is left to do so. Anywhere else the folder is searched for the Message-ID
before anything is put there, so a copy that is there already, whoever made it, is never joined by a second one.

One row: where the server says which UID the copy got (UIDPLUS), it is stored under that UID at once, and a sync finds
it there; where it does not, the sync brings it like any other message.
"""

from datetime import timedelta

from tasks.engine.connection_cache import lent_imap
from tasks.engine.sync.mailbox import make_folder
from tasks.errors import LeaseHeldError
from tasks.mail.imap.commands import ImapConnection
from tasks.mail.imap.flags import read_flags
from tasks.mail.imap.folders import classify
from tasks.mail.imap.responses import AppendedUid
from tasks.mail.imap.session import FetchRefusedError
from tasks.mail.imap.uidset import UidSet
from tasks.mail.parse.message import parse
from tasks.storage.accounts.leases import owner_of, release_lease, renew_lease, take_lease
from tasks.storage.accounts.rows import Account
from tasks.storage.messages.arrivals import prepare
from tasks.storage.messages.batch import Batch, UidNumbering, store_batch
from tasks.storage.messages.changes import missing_uids
from tasks.storage.messages.folders import load_folders
from tasks.storage.outbox import Outgoing
from tasks.storage.session import tenant_transaction

# Where people submit mail at Google and Microsoft: these put a copy of it into the Sent folder. Their relays, such as
# smtp-relay.gmail.com and *.mail.protection.outlook.com, know no mailbox and file none.
_FILES_BY_ITSELF = {
    "smtp.gmail.com", "smtp.googlemail.com",
    "smtp.office365.com", "smtp-legacy.office365.com", "outlook.office365.com", "smtp.office365.us",
    "smtp.partner.outlook.cn", "smtp-mail.outlook.com", "smtp.live.com",
}  # fmt: skip

# A server's clock and time zone may put a message on another day than ours.
_MARGIN = timedelta(days=2)
# A sync that comes in between waits no longer than this.
_LEASE_SECONDS = 5
_SEEN = "\\Seen"
_NEW_FOLDER = "Sent"


def wants_copy(account: Account) -> bool:
    """Whether it is for us to file a copy. A POP3 account has no folder to file it in."""
    if account.protocol != "imap" or account.sent_copies != "auto":
        return account.protocol == "imap" and account.sent_copies == "append"
    return (account.smtp_hostname or "").lower() not in _FILES_BY_ITSELF


def has_copy(account: Account, outgoing: Outgoing) -> bool:
    """Whether the message is in the Sent folder. Raises UnsupportedProtocolError for an account without folders."""
    with lent_imap(account) as imap:
        return _open_folder(account, imap) is not None and _is_there(imap, outgoing)


def file_copy(account: Account, outgoing: Outgoing, raw: bytes) -> None:
    """Make sure that a copy is in the Sent folder, which is made if there is none; twice does no harm."""
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
    """The path of the Sent folder, which is open then: as the last sync knew it, else as the server says now."""
    with tenant_transaction(account.tenant_id) as connection:
        folders = load_folders(connection, account, None).values()
    known = next((folder.path for folder in folders if folder.type == "sent" and folder.is_selectable), None)
    refusal: FetchRefusedError | None = None
    if known is not None:
        try:
            imap.select(known)
        except FetchRefusedError as error:
            refusal = error
        else:
            return known
    listed, _ = imap.list_folders()
    selectable = {folder.path for folder in listed if folder.is_selectable}
    if refusal and known in selectable:
        raise refusal
    path = next((path for path, kind in classify(listed).items() if kind == "sent" and path in selectable), None)
    if path is not None:
        imap.select(path)
    return path


def _store(account: Account, outgoing: Outgoing, raw: bytes, path: str, appended: AppendedUid) -> None:
    """Store what was filed, unless a sync of the account is under way: then it is for that one or the next."""
    run = owner_of(f"copy of {outgoing.id}")
    try:
        take_lease(account.tenant_id, account.user_id, account.id, run, _LEASE_SECONDS)
    except LeaseHeldError:
        return
    try:
        flags = read_flags((_SEEN,), "sent")
        received_at = outgoing.created_at.replace(microsecond=0)  # as INTERNALDATE is
        arrival = prepare(appended.uid, flags, received_at, len(raw), raw, parse(raw), None)
        with tenant_transaction(account.tenant_id) as connection:
            folder = load_folders(connection, account, None).get(path)
            if folder is None or folder.uidvalidity != appended.uidvalidity or appended.uid < folder.uidnext:
                # Never synced, numbered anew, or the UID of a message that we know: the sync will bring the copy.
                return
            if missing_uids(connection, account, folder, UidSet.of([appended.uid]), appended.uid).ranges:
                # The checkpoint stays: there may be others below that are not stored yet.
                store_batch(
                    connection, account, folder.id, UidNumbering(appended.uidvalidity), Batch((arrival,), (), 1)
                )
            renew_lease(connection, account, run, _LEASE_SECONDS)
    finally:
        release_lease(account, run)
