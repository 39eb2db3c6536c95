"""The kinds of protocols, connections and folders, by the words that the tables keep."""

from enum import StrEnum


class MailProtocol(StrEnum):
    """How a mailbox is read."""

    IMAP = "imap"
    POP3 = "pop3"


class Encryption(StrEnum):
    """How a connection to a mail server is protected: not at all, from its beginning, or after a command."""

    NONE = "none"
    TLS = "tls"
    STARTTLS = "starttls"


class FolderType(StrEnum):
    """What a folder is for (RFC 6154); `CUSTOM` is a folder without such a purpose."""

    INBOX = "inbox"
    SENT = "sent"
    DRAFTS = "drafts"
    TRASH = "trash"
    SPAM = "spam"
    ARCHIVE = "archive"
    CUSTOM = "custom"
