"""Envelopes: what identifies a message (Message-ID, size, date),
read from the server without bodies and compared with rows."""

from collections.abc import Iterable, Iterator
from itertools import islice

from tasks.engine.run import Run
from tasks.mail.imap.commands import ImapConnection
from tasks.mail.imap.fetch import FetchedEnvelope
from tasks.mail.imap.uidset import UidSet
from tasks.mail.parse.message import parse
from tasks.storage.messages import changes
from tasks.storage.messages.arrivals import MAX_MESSAGE_ID_LENGTH
from tasks.storage.messages.changes import Envelope
from tasks.storage.messages.folders import Folder
from tasks.storage.session import tenant_transaction


def fetch_envelopes(imap: ImapConnection, uids: UidSet) -> Iterator[Envelope]:
    """The envelopes of those `uids` that the server still has. Message-IDs are read as the parser reads them."""
    return (envelope_of(fetched) for fetched in imap.fetch_envelopes(uids))


def envelope_of(fetched: FetchedEnvelope) -> Envelope:
    """The envelope that the server gave, in the form in which a row holds it."""
    return Envelope(fetched.uid, message_id_of(fetched.header), fetched.size, fetched.received_at)


def message_id_of(header: bytes) -> str | None:
    """The Message-ID in a header, in the form in which a row holds it."""
    message_id = parse(header).message_id
    return message_id and message_id[:MAX_MESSAGE_ID_LENGTH]


def is_same(known: Envelope, seen: Envelope) -> bool:
    """Whether two envelopes are of one message.

    If both have a Message-ID: the same Message-ID, and the same size or date. Message-ID alone is not enough, because
    the sent and the received copy of a mail to oneself share it. Without a Message-ID: the same size and date.
    """
    same_size, same_date = known.size == seen.size, _second(known) == _second(seen)
    if known.message_id and seen.message_id:
        return known.message_id == seen.message_id and (same_size or same_date)
    return same_size and same_date


def other_messages(run: Run, folder: Folder, seen: Iterable[Envelope]) -> list[int]:
    """The UIDs under which the server has another message than the stored one."""
    by_uid = {envelope.uid: envelope for envelope in seen}
    with tenant_transaction(run.account.tenant_id) as connection:
        known = changes.envelopes(connection, run.account, folder, list(by_uid))
    return [envelope.uid for envelope in known if not is_same(envelope, by_uid[envelope.uid])]


def in_parts(imap: ImapConnection, uids: UidSet, size: int) -> Iterator[list[FetchedEnvelope]]:
    """The envelopes of `uids` from the server, `size` UIDs at a time."""
    remaining = uids.uids()
    while part := list(islice(remaining, size)):
        yield list(imap.fetch_envelopes(UidSet.of(part)))


def _second(envelope: Envelope) -> float | None:
    # INTERNALDATE has whole seconds; the stored time of a message that a worker filed itself has fractions.
    return int(envelope.received_at.timestamp()) if envelope.received_at else None
