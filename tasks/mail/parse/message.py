"""Parses a message (RFC 5322, MIME) into what a mail client would show.

Any bytes can be parsed; there are no side effects.

bytes -> mime.read: header fields and tree of parts -> bodies.bodies: text, HTML, attachments
                    headers, addresses, dates, identifiers: what the header fields mean

After a change with which any of these modules reads some message
differently, raise PARSER_VERSION (`tasks.mail.message`).
"""

import re

from tasks.errors import MessageUnparsableError
from tasks.mail.message import Address, ParsedMessage
from tasks.mail.parse.addresses import addresses
from tasks.mail.parse.bodies import bodies
from tasks.mail.parse.dates import date
from tasks.mail.parse.headers import decode_value, one_line
from tasks.mail.parse.identifiers import identifiers
from tasks.mail.parse.mime import read

# A CR that is a line end of its own: it counts as one if the first line that ends in LF has such a CR inside.
_LONE_CR = re.compile(rb"\r(?!\r*\n)")
_MAILBOX_FIELDS = ("from", "to", "cc", "bcc", "reply-to")
_UTF8_BOM = b"\xef\xbb\xbf"


def parse(raw: bytes) -> ParsedMessage:
    """Parse the message in `raw`. Broken messages are read as far as possible.

    Raises MessageUnparsableError for any defect of this parser, so that one message never stops a folder.
    """
    try:
        return _parse(raw)
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise MessageUnparsableError(f"{type(error).__name__} in the parser") from error


def _parse(raw: bytes) -> ParsedMessage:
    fields, root, charset = read(without_envelope(raw))
    names: dict[str, str] = {}
    headers: dict[str, list[str]] = {}
    mailboxes: dict[str, list[Address]] = {key: [] for key in _MAILBOX_FIELDS}
    for name, value in fields:
        is_plain = value.isascii() and "=?" not in value and "\x1b" not in value and "\0" not in value
        text = value if is_plain else decode_value(value, charset)
        key = name.lower()
        if key in names:
            headers[names[key]].append(text)
        else:
            names[key] = name
            headers[name] = [text]
        # Only the first From counts: a second one may have been added by somebody else.
        if key in mailboxes and not (key == "from" and mailboxes[key]):
            mailboxes[key].extend(addresses(value, charset))

    def first(key: str) -> str:
        return headers[names[key]][0] if key in names else ""

    content = bodies(root)
    return ParsedMessage(
        message_id=next(iter(identifiers(first("message-id"))), None),
        in_reply_to=identifiers(first("in-reply-to")),
        references=identifiers(first("references")),
        from_=tuple(mailboxes["from"]),
        to=tuple(mailboxes["to"]),
        cc=tuple(mailboxes["cc"]),
        bcc=tuple(mailboxes["bcc"]),
        reply_to=tuple(mailboxes["reply-to"]),
        subject=one_line(first("subject")),
        date=date(first("date")),
        text_body=content.text,
        html_body=content.html,
        headers=headers,
        attachments=content.attachments,
    )


def without_envelope(raw: bytes) -> bytes:
    """`raw` without lines that editors put before a message, and with line ends by which the header can be read."""
    if raw.startswith(_UTF8_BOM):
        raw = raw[len(_UTF8_BOM) :]
    first_line_end = raw.find(b"\n")
    first_cr = raw.find(b"\r", 0, first_line_end) if first_line_end >= 0 else raw.find(b"\r")
    if first_cr >= 0 and _LONE_CR.match(raw, first_cr):
        raw = _LONE_CR.sub(b"\n", raw)
    return raw
