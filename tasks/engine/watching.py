"""Opens the connection of a watched account: the login of every other connection, INBOX, and what is known so far.

All of this blocks, so a watcher calls it in a thread. What comes after is said and heard without blocking
(`tasks.mail.imap.watched`).
"""

from typing import NamedTuple

from tasks.engine.connect import endpoint_of, open_imap
from tasks.errors import EmailError, PermanentError
from tasks.mail.connection import Endpoint
from tasks.mail.imap.responses import FolderStatus
from tasks.mail.imap.watched import INBOX
from tasks.mail.imap.wire import Wire
from tasks.mail.login import Login
from tasks.secrecy.secrets import without_secrets
from tasks.storage.accounts.rows import get_account, require_mailbox
from tasks.storage.messages.folders import load_folders
from tasks.storage.session import tenant_transaction


class NoIdleError(PermanentError):
    """The mail server cannot tell of changes: it does not offer IDLE."""

    code = "no_idle"


class Opened(NamedTuple):
    """A connection with INBOX open. `known` has the stored states of the folders that are synced, by path."""

    wire: Wire
    endpoint: Endpoint
    login: Login
    capabilities: frozenset[str]
    known: dict[str, FolderStatus]
    inbox: FolderStatus


def open_watched(tenant_id: str, user_id: str, account_id: str) -> Opened:
    """Log in and open INBOX, read-only.

    Raises NoIdleError, NotFoundError, the errors of a login, and what `require_mailbox` raises for an account that is
    paused, switched off, or waits for its next login.
    """
    with tenant_transaction(tenant_id) as connection:
        account = get_account(connection, tenant_id, user_id, account_id)
        require_mailbox(account)
        folders = load_folders(connection, account, None)
    imap = open_imap(account)
    try:
        if "IDLE" not in imap.capabilities:
            raise NoIdleError(account.hostname)
        inbox = imap.select(INBOX)
        capabilities, login = imap.capabilities, imap.login
        wire = Wire(*imap.hand_over(), endpoint_of(account))
    except BaseException as error:
        imap.abandon()
        if isinstance(error, EmailError):
            without_secrets(error)
        raise
    known = {
        path: FolderStatus(folder.server_count, folder.uidvalidity, folder.uidnext, folder.highestmodseq)
        for path, folder in folders.items()
        if folder.uidvalidity is not None and folder.server_count is not None
    }
    return Opened(wire, endpoint_of(account), login, capabilities, known, inbox)
