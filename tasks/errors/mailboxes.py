"""Accounts, folders and messages: their leases, what cannot be synced, parsed or deleted."""

from tasks.errors.base import PermanentError, TransientError


class LeaseHeldError(TransientError):
    """Another worker is syncing this account."""

    code = "lease_held"

    def __init__(self, seconds_left: float) -> None:
        super().__init__(f"its lease has {seconds_left:.0f} s left")
        self.seconds_left = seconds_left


class LeaseLostError(TransientError):
    """The lease on the account ran out while it was being synced, and another worker took it."""

    code = "lease_lost"


class NotFoundError(PermanentError):
    """Not found."""

    code = "not_found"


class AnotherMessageError(PermanentError):
    """The mail server has another message in the place of the message to be deleted, and the message to be deleted
    was not found elsewhere; neither of the two was deleted."""

    code = "another_message"


class UnsupportedProtocolError(PermanentError):
    """Accounts of this protocol cannot be synced."""

    code = "unsupported_protocol"


class MessageUnparsableError(PermanentError):
    """A message cannot be parsed."""

    code = "message_unparsable"


class FoldersFailedError(PermanentError):
    """Some folders could not be synced; the other folders were synced."""

    code = "folders_failed"


class MailboxIncompleteError(PermanentError):
    """The server does not give all of its messages; the messages that it gives are stored, and the missing messages
    are asked for again."""

    code = "mailbox_incomplete"


class NoTrashError(PermanentError):
    """The account has no Trash, and its server refuses to make one; only deleting for good is possible."""

    code = "no_trash"


class FolderReadOnlyError(PermanentError):
    """The server lets nothing be changed in this folder."""

    code = "folder_read_only"
