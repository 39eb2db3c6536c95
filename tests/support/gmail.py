"""A mailbox at Gmail, on the scripted IMAP server.

Gmail itself cannot be had for a test, and no other server speaks X-GM-EXT-1. The capabilities, folders and answers
are written as Google documents them.
"""

from tests.support.imap_mailbox import ScriptedFolder
from tests.support.imap_server import GMAIL, ImapServer
from tests.support.mailbox import message

ALL_MAIL, SPAM, TRASH = "[Gmail]/All Mail", "[Gmail]/Spam", "[Gmail]/Trash"


class GmailServer(ImapServer):
    """Three messages in All Mail, of which two show in INBOX, one of those under a label too."""

    def __init__(self) -> None:
        super().__init__(GMAIL)
        self.add_folder("[Gmail]", attributes="\\HasChildren \\Noselect")
        self.everything = self.add_folder(ALL_MAIL, attributes="\\All \\HasNoChildren")
        self.add_folder("[Gmail]/Sent Mail", attributes="\\Sent")
        self.spam = self.add_folder(SPAM, attributes="\\Junk")
        self.trash = self.add_folder(TRASH, attributes="\\Trash")
        self.label = self.add_folder("B&APw-cher (neu)")
        for uidvalidity, folder in enumerate(self.folders.values(), start=1):
            # As Gmail has them; folders in the same state could have changed names with one another.
            folder.uidvalidity = uidvalidity
        self.spam.append(message(8))
        self.trash.append(message(9))
        self.everything.append(message(1), message(2), message(3))
        self.inbox.append(message(1), message(2))
        self.label.append(message(2))
        for uid, labels, thread in (
            (1, '"\\\\Inbox" "\\\\Important" Work', 1278455344230334865),
            (2, '"\\\\Inbox" "B&APw-cher (neu)"', 1278455344230334865),
            (3, '"\\\\Sent"', 1278455344230334866),
        ):
            self.everything.messages[uid].labels, self.everything.messages[uid].thread = labels, thread

    def expunge(self, folder: ScriptedFolder, *uids: int) -> None:
        """Only what is in Trash or Spam is gone then; elsewhere a message loses a label, and stays in All Mail."""
        if folder is not self.everything:
            super().expunge(folder, *uids)

    def move(self, folder: ScriptedFolder, target: ScriptedFolder, uids: list[int]) -> list[int]:
        """What goes to Trash shows under no label any more."""
        raws = [folder.messages[uid].raw for uid in uids]
        moved = super().move(folder, target, uids)
        for shown in (self.inbox, self.label, self.everything) if target is self.trash else ():
            shown.expunge(*[uid for uid in shown.uids if shown.messages[uid].raw in raws])
        return moved
