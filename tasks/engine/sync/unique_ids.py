"""Whether a unique-id of POP3 still is the message that we know by it.

It is to be one message's for ever (RFC 1939 section 7), and some servers give it to another one, such as those that
number the messages of a maildrop anew. So before a message is deleted there, it is compared; and a full sync compares
those whose size is another one than that of the message we know.
"""

from collections.abc import Mapping

from tasks.engine.envelopes import message_id_of
from tasks.mail.message import FetchedMessage
from tasks.mail.pop3.commands import Pop3Connection
from tasks.mail.pop3.uidl import UidlEntry
from tasks.storage.messages.changes import Envelope


def other_messages(pop3: Pop3Connection, known: Mapping[UidlEntry, Envelope]) -> set[UidlEntry]:
    """The messages on the server that are other messages than those stored under their unique-ids.

    By Message-ID (TOP), else by size; the size that LIST gives need not be right, so one that differs is measured.
    """
    by_number = {
        message.number: message for message in known if message.unique_id
    }  # others have keys of their content
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
