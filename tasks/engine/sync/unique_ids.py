"""Finds out whether a POP3 unique-id still belongs to the message that is stored under it.

A unique-id must belong to one message for ever (RFC 1939 section 7). But some servers give it to another message, for
example when they number the messages of a maildrop anew. So a message is compared before it is deleted on the server,
and a full sync compares the messages whose size differs from the stored size.
"""

from collections.abc import Mapping

from tasks.engine.envelopes import message_id_of
from tasks.mail.message import FetchedMessage
from tasks.mail.pop3.commands import Pop3Connection
from tasks.mail.pop3.uidl import UidlEntry
from tasks.storage.messages.changes import Envelope


def other_messages(pop3: Pop3Connection, known: Mapping[UidlEntry, Envelope]) -> set[UidlEntry]:
    """The messages on the server whose unique-id is stored for another message.

    Compares by Message-ID (with TOP), else by size. Sizes in LIST may be wrong, so a size that differs is measured.
    """
    by_number = {
        message.number: message for message in known if message.unique_id
    }  # keys without a unique-id are made of the content
    headers: dict[int, bytes | None] = {}
    if not pop3.capabilities or "TOP" in pop3.capabilities:
        headers = dict(pop3.headers(by_number))
    others: set[UidlEntry] = set()
    unknown: list[int] = []
    for number, message in by_number.items():
        there = message_id_of(headers.get(number) or b"")
        if there and known[message].message_id:
            if there != known[message].message_id:
                others.add(message)
        elif message.size != known[message].size:
            unknown.append(number)
    for answer in pop3.stream_messages(unknown):
        if not isinstance(answer, FetchedMessage):
            others.add(by_number[answer.number])
        elif answer.size != known[by_number[answer.uid]].size:
            others.add(by_number[answer.uid])
    return others
