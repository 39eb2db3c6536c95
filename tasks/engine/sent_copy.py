"""The copy of a sent message in the account's Sent folder: looked for, filed where nobody else does, and stored.

A provider that files copies by itself is left to do so. Anywhere else the folder is searched for the Message-ID
before anything is put there, so a copy that is there already, whoever made it, is never joined by a second one.

One row: where the server says which UID the copy got (UIDPLUS), it is stored under that UID at once, and a sync finds
it there; where it does not, the sync brings it like any other message.
"""

from datetime import timedelta

from tasks.engine.mailbox import make_folder
from tasks.engine.reuse import lent_imap
from tasks.errors import LeaseHeldError
from tasks.mail.flags import read_flags
from tasks.mail.folders import classify
from tasks.mail.imap import ImapConnection
from tasks.mail.imap_responses import AppendedUid
from tasks.mail.parse import parse
from tasks.mail.uidset import UidSet
from tasks.storage.accounts import Account
from tasks.storage.arrivals import prepare
from tasks.storage.changes import missing_uids
from tasks.storage.folders import load_folders
from tasks.storage.leases import owner_of, release_lease, renew_lease, take_lease
from tasks.storage.messages import Batch, UidNumbering, store_batch
from tasks.storage.outbox import Outgoing
from tasks.storage.session import tenant_transaction

# Their SMTP servers put a copy of all that is sent into the Sent folder.
_FILES_BY_ITSELF = ("gmail.com", "googlemail.com", "office365.com", "outlook.com", "hotmail.com")

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
    host = (account.smtp_hostname or "").lower()
    return not any(host == domain or host.endswith(f".{domain}") for domain in _FILES_BY_ITSELF)


def has_copy(account: Account, outgoing: Outgoing) -> bool:
    """Whether the message is in the Sent folder. Raises UnsupportedProtocolError for an account without folders."""
    with lent_imap(account) as imap:
        path = _find_folder(account, imap)
        return path is not None and _is_there(imap, path, outgoing)


def file_copy(account: Account, outgoing: Outgoing, raw: bytes) -> None:
    """Make sure that a copy is in the Sent folder; twice does no harm."""
    with lent_imap(account) as imap:
        path = _find_folder(account, imap) or make_folder(imap, _NEW_FOLDER)
        if _is_there(imap, path, outgoing):
            return
        appended = imap.append(path, _SEEN, outgoing.created_at, raw)
    if appended is not None:
        _store(account, outgoing, raw, path, appended)


def _is_there(imap: ImapConnection, path: str, outgoing: Outgoing) -> bool:
    imap.select(path)
    return imap.find_by_message_id(outgoing.message_id, (outgoing.created_at - _MARGIN).date())


def _find_folder(account: Account, imap: ImapConnection) -> str | None:
    """As the last sync knew it, else as the server says now."""
    with tenant_transaction(account.tenant_id) as connection:
        known = load_folders(connection, account, None)
    types = {path: folder.type for path, folder in known.items() if folder.is_selectable}
    if "sent" not in types.values():
        listed, _ = imap.list_folders()
        selectable = {folder.path for folder in listed if folder.is_selectable}
        types = {path: kind for path, kind in classify(listed).items() if path in selectable}
    return next((path for path, kind in types.items() if kind == "sent"), None)


def _store(account: Account, outgoing: Outgoing, raw: bytes, path: str, appended: AppendedUid) -> None:
    """Store what was filed, unless a sync of the account is under way: then it is for that one or the next."""
    run = owner_of(f"copy of {outgoing.id}")
    try:
        take_lease(account.tenant_id, account.user_id, account.id, run, _LEASE_SECONDS)
    except LeaseHeldError:
        return
    try:
        flags = read_flags((_SEEN,), "sent")
        arrival = prepare(appended.uid, flags, outgoing.created_at, len(raw), raw, parse(raw), None)
        with tenant_transaction(account.tenant_id) as connection:
            folder = load_folders(connection, account, None).get(path)
            if folder is None or folder.uidvalidity != appended.uidvalidity:
                return  # never synced, or the server numbers it anew: the sync will bring it
            if missing_uids(connection, account, folder, UidSet.of([appended.uid]), appended.uid).ranges:
                # The checkpoint stays: there may be others below that are not stored yet.
                store_batch(
                    connection, account, folder.id, UidNumbering(appended.uidvalidity), Batch((arrival,), (), 1)
                )
            renew_lease(connection, account, run, _LEASE_SECONDS)
    finally:
        release_lease(account, run)
