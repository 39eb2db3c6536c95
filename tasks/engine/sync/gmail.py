"""Gmail, whose folders are labels (X-GM-EXT-1, https://developers.google.com/workspace/gmail/imap/imap-extensions).

Every message is in one of All Mail, Spam and Trash, and is shown a second time in the folder of each of its labels.
So messages are fetched from these three folders only, and each is stored once, with its labels. The other folders are
listed with the counts that the server gives.
"""

import logging
from collections.abc import Collection

from tasks.engine.run import Run
from tasks.mail.imap.commands import ImapConnection
from tasks.mail.imap.folders import ListedFolder, classify
from tasks.mail.imap.responses import FolderStatus
from tasks.mail.imap.uidset import UidSet
from tasks.mail.kinds import FolderType
from tasks.storage.messages.changes import remove_absent
from tasks.storage.messages.folders import Folder, change_folder

logger = logging.getLogger(__name__)

_NEVER_SYNCED = {"uidvalidity": None, "uidnext": 1, "highestmodseq": None}
_ALL_UIDS = 2**32
ALL_MAIL = "\\all"


def label_folders(imap: ImapConnection, listed: Collection[ListedFolder]) -> frozenset[str]:
    """The paths of folders that are labels: they only show messages of other folders.

    Empty on servers other than Gmail.

    Empty too where All Mail is hidden from IMAP, which Gmail's settings allow: then each label is an ordinary folder.
    """
    if not imap.has_gmail_labels:
        return frozenset()
    if not any(ALL_MAIL in folder.attributes and folder.is_selectable for folder in listed):
        logger.warning("Gmail hides All Mail from IMAP: a message with several labels is stored once for each")
        return frozenset()
    types = classify(listed)
    return frozenset(
        folder.path
        for folder in listed
        if ALL_MAIL not in folder.attributes and types[folder.path] not in (FolderType.SPAM, FolderType.TRASH)
    )


def hold_no_messages(run: Run, folders: Collection[Folder], statuses: dict[str, FolderStatus]) -> None:
    """Store the server's counts for the folders of labels, where the server gives counts.

    Rows of messages in such a folder, stored while All Mail was hidden, are removed.
    """
    with run.transaction() as connection:
        for folder in folders:
            held = {"total_count": folder.total_count, "unread_count": folder.unread_count}
            if folder.uidvalidity is not None:
                held = {}
                run.tally.deleted_with_folders += remove_absent(connection, run.account, folder, UidSet(), _ALL_UIDS)
                change_folder(connection, run.account, folder.id, _NEVER_SYNCED)
            status = statuses.get(folder.path)
            counts = status and {"total_count": status.messages, "unread_count": status.unseen or 0}
            if counts and counts != held:
                change_folder(connection, run.account, folder.id, counts)
