"""Compares an account with its server message by message, and changes nothing."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from tasks.engine.connect import connected, connected_pop3
from tasks.engine.envelopes import envelope_of, in_parts, is_same
from tasks.engine.sync.completeness import is_window
from tasks.engine.sync.gmail import label_folders
from tasks.engine.sync.views import left_out
from tasks.errors import NotFoundError
from tasks.mail.imap.commands import ImapConnection
from tasks.mail.imap.uidset import UidSet
from tasks.mail.kinds import MailProtocol
from tasks.mail.pop3.uidl import keys_by_unique_id
from tasks.mail.session import CommandRefusedError
from tasks.storage.accounts.rows import Account
from tasks.storage.messages import changes
from tasks.storage.messages.folders import Folder, load_folders
from tasks.storage.messages.maildrop import missing_keys
from tasks.storage.session import tenant_transaction

_ENVELOPES_PER_REQUEST = 2_000
_ALL_UIDS = 2**32
_NOT_HERE = "the folder is on the server and not here"

# Called with the name of a folder, how many of its messages were compared so far, and how many there are.
Report = Callable[[str, int, int], None]


class FolderAudit(NamedTuple):
    """How a stored folder differs from the folder on the server.

    For POP3, whose messages have no UIDs, only counts are known.

    UIDs in `missing` are on the server and not stored, UIDs in `gone` are stored and not on the server, and under
    UIDs in `differs` the server has another message. `hidden` counts stored messages that may be outside of the
    window that the server shows. `problem` says why the comparison ended early.
    """

    name: str
    on_server: int = 0
    stored: int = 0
    set_aside: int = 0
    hidden: int = 0
    missing_count: int = 0
    missing: UidSet = UidSet()
    gone: UidSet = UidSet()
    differs: UidSet = UidSet()
    problem: str | None = None

    @property
    def agrees(self) -> bool:
        """Whether all messages agree with the server's, apart from messages in quarantine and hidden messages."""
        return not (self.missing_count or self.gone.ranges or self.differs.ranges or self.problem)


def audit(account: Account, folder_name: str | None, report: Report) -> Iterator[FolderAudit]:
    """Compare each folder that is synced, or the folder of this name.

    Raises NotFoundError, and the errors of the server.
    """
    with tenant_transaction(account.tenant_id) as connection:
        ours = load_folders(connection, account, None)
    if account.protocol == MailProtocol.POP3:
        yield _maildrop(account, ours.get("INBOX"))
        return
    with connected(account) as imap:
        listed, _ = imap.list_folders()
        views = label_folders(imap, listed) | left_out(account, list(ours.values()))
        names = {folder.path: folder.name for folder in listed if folder.is_selectable and folder.path not in views}
        names |= {path: folder.name for path, folder in ours.items() if folder.is_selectable and path not in views}
        chosen = {path: name for path, name in names.items() if folder_name in (None, name, path)}
        if not chosen:
            raise NotFoundError(f"folder {folder_name}")
        for path, name in chosen.items():
            folder = ours.get(path)
            yield _folder(account, imap, folder, report) if folder else FolderAudit(name, problem=_NOT_HERE)


def _folder(account: Account, imap: ImapConnection, folder: Folder, report: Report) -> FolderAudit:
    found = FolderAudit(folder.name, stored=folder.total_count, set_aside=folder.quarantined_count)
    try:
        opened = imap.select(folder.path)
        found = found._replace(on_server=opened.messages)
        if opened.uidvalidity != folder.uidvalidity:
            return found._replace(problem="its messages have other UIDs than at the last sync (UIDVALIDITY)")
        present = imap.search(1, opened)
        if present.size() < opened.messages:
            found = found._replace(problem=f"the server names {present.size()} of {opened.messages} messages")
        with tenant_transaction(account.tenant_id) as connection:
            missing = changes.missing_uids(connection, account, folder, present, 0)
            absent = changes.absent_uids(connection, account, folder, present, _ALL_UIDS)
        hidden = absent.below(present.ranges[0][0]) if is_window(folder, opened.messages) else UidSet()
        gone = UidSet() if found.problem else absent.minus(hidden).minus(imap.existing(absent))
        differs = _differing(account, imap, folder, present.minus(missing), report)
    except CommandRefusedError as error:
        return found._replace(problem=error.detail)
    found = found._replace(hidden=hidden.size(), missing_count=missing.size(), missing=missing)
    return found._replace(gone=gone, differs=differs)


def _differing(account: Account, imap: ImapConnection, folder: Folder, uids: UidSet, report: Report) -> UidSet:
    """The UIDs under which the server has another message, by Message-ID, size and date."""
    differing: list[int] = []
    compared, total = 0, uids.size()
    for fetched in in_parts(imap, uids, _ENVELOPES_PER_REQUEST):
        seen = {answer.uid: envelope_of(answer) for answer in fetched}
        with tenant_transaction(account.tenant_id) as connection:
            known = changes.envelopes(connection, account, folder, list(seen))
        differing += [envelope.uid for envelope in known if not is_same(envelope, seen[envelope.uid])]
        compared = min(compared + _ENVELOPES_PER_REQUEST, total)
        report(folder.name, compared, total)
    return UidSet.of(differing)


def _maildrop(account: Account, inbox: Folder | None) -> FolderAudit:
    stored, set_aside = (inbox.total_count, inbox.quarantined_count) if inbox else (0, 0)
    with connected_pop3(account) as pop3:
        count = pop3.count()
        messages, has_unique_ids = pop3.list_messages()
    found = FolderAudit("INBOX", count, stored, set_aside)
    if not has_unique_ids and messages:
        return found._replace(problem="the server gives no unique-ids, so that only a sync can compare")
    keys = set(keys_by_unique_id(messages).values())
    with tenant_transaction(account.tenant_id) as connection:
        missing = missing_keys(connection, account, keys)
    unlisted = count - len(messages)
    return found._replace(
        missing_count=len(missing),
        problem=f"the server lists {len(messages)} of {count} messages" if unlisted > 0 else None,
    )
