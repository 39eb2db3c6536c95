"""What identifies messages, read from the server without their bodies."""

from collections.abc import Iterator

from tasks.mail.imap import ImapConnection
from tasks.mail.parse import parse
from tasks.mail.uidset import UidSet
from tasks.storage.changes import Envelope


def fetch_envelopes(imap: ImapConnection, uids: UidSet) -> Iterator[Envelope]:
    """The envelopes of `uids`, of those that are still there, their Message-IDs read as the parser reads them."""
    for fetched in imap.fetch_envelopes(uids):
        yield Envelope(fetched.uid, parse(fetched.header).message_id, fetched.size, fetched.received_at)
