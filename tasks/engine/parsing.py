"""Turns fetched messages into rows: parses, sanitises and scores them. Needs no database and no settings.

The result depends on the arguments alone, so this code can run
in the worker or in a process of its own (parser_process.py).
"""

import logging
from typing import NamedTuple

from tasks.errors import MessageUnparsableError
from tasks.mail.imap.flags import read_flags
from tasks.mail.message import FetchedMessage, ParsedMessage
from tasks.mail.parse.message import parse
from tasks.mail.spam import judge
from tasks.mail.spam.evidence import Addressee
from tasks.mail.spam.verdict import Verdict
from tasks.storage.messages.arrivals import Arrival, Quarantined, prepare

logger = logging.getLogger(__name__)


class Destination(NamedTuple):
    """Where messages are stored: their folder, and for whom
    they are checked for spam (None: they are not checked)."""

    folder_id: str
    folder_type: str
    recipient: Addressee | None


def to_rows(destination: Destination, message: FetchedMessage) -> Arrival | Quarantined:
    """The message ready to be stored.

    A message that cannot be parsed becomes a Quarantined with its bytes. Never raises.
    """
    raw = message.raw or b""
    try:
        flags = read_flags(message.flags, destination.folder_type)
        parsed = parse(raw)
        verdict = _judged(destination.recipient, parsed)
        return prepare(message.uid, flags, message.received_at, message.size, raw, parsed, verdict, message.thread_id)
    except MessageUnparsableError as error:
        return Quarantined(message.uid, "unparsable", error.detail, message.size, raw)
    except Exception as error:
        # A defect of the parser must not stop a folder. The bytes are kept, so that the defect can be found.
        logger.exception("parser failed", extra={"folder": destination.folder_id, "uid": message.uid})
        return Quarantined(message.uid, "parser_failed", type(error).__name__, message.size, raw)


def _judged(recipient: Addressee | None, message: ParsedMessage) -> Verdict | None:
    if recipient is None:
        return None
    try:
        return judge(message, recipient)
    except Exception:
        # A defect of a rule must not keep a message from being stored; the message counts as not checked.
        logger.exception("spam rules failed")
        return None
