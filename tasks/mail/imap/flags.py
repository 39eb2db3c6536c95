"""IMAP flags and keywords (RFC 9051 section 2.3.2) as the columns of a message."""

from functools import lru_cache
from typing import NamedTuple

from tasks.mail.kinds import FolderType


class Flags(NamedTuple):
    """The changing state of a message. `labels` are keywords and Gmail's labels that have no column of their own."""

    is_read: bool
    is_starred: bool
    is_spam: bool
    is_not_spam: bool
    is_draft: bool
    is_sent: bool
    is_deleted: bool
    labels: tuple[str, ...]


_SPAM_KEYWORDS = {"$junk", "junk"}
_NO_SPAM_KEYWORDS = {"$notjunk", "notjunk", "nonjunk"}
# Gmail's own labels; those that have a column (\\Sent, \\Draft, \\Starred) are left out.
_GMAIL_LABELS = {"\\inbox", "\\important", "\\muted"}
_KNOWN_KEYWORDS = _SPAM_KEYWORDS | _NO_SPAM_KEYWORDS


# The cache is small, because a server can make each flag as long as it likes.
@lru_cache(maxsize=64)
def read_flags(flags: tuple[str, ...], folder_type: str) -> Flags:
    """The state of a message, from its flags and the type of its folder."""
    lowered = {flag.lower() for flag in flags}
    is_spam, is_not_spam = bool(lowered & _SPAM_KEYWORDS), bool(lowered & _NO_SPAM_KEYWORDS)
    if is_spam and is_not_spam:
        # Both keywords at once count as none.
        is_spam = is_not_spam = False
    return Flags(
        is_read="\\seen" in lowered,
        is_starred="\\flagged" in lowered,
        is_spam=is_spam or folder_type == FolderType.SPAM,
        is_not_spam=is_not_spam and folder_type != FolderType.SPAM,
        is_draft="\\draft" in lowered or folder_type == FolderType.DRAFTS,
        is_sent="\\sent" in lowered or folder_type == FolderType.SENT,
        is_deleted="\\deleted" in lowered,
        labels=tuple(sorted(flag for flag in flags if _is_label(flag))),
    )


def _is_label(flag: str) -> bool:
    lowered = flag.lower()
    return lowered in _GMAIL_LABELS if lowered.startswith("\\") else lowered not in _KNOWN_KEYWORDS
