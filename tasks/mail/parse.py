"""A message as bytes (RFC 5322, MIME) to what a mail client would show of it; pure, and any bytes parse.

bytes -> mime.read: header fields and tree of parts -> bodies.bodies: text, HTML, attachments
                    headers, addresses, fields: what the header fields mean
"""

import re

from tasks.errors import MessageUnparsableError
from tasks.mail.addresses import addresses
from tasks.mail.bodies import bodies
from tasks.mail.fields import date, identifiers
from tasks.mail.headers import decode_value, one_line
from tasks.mail.message import Address, ParsedMessage
from tasks.mail.mime import read

_MBOX_FROM = re.compile(rb">?From [^\r\n]{0,500}\d\d:\d\d[^\r\n]{0,500}\r?\n")
_MAILBOX_FIELDS = ("from", "to", "cc", "bcc", "reply-to")
_UTF8_BOM = b"\xef\xbb\xbf"


def parse(raw: bytes) -> ParsedMessage:
    """The message in `raw`. What is broken is read as far as it can be.

    Raises MessageUnparsableError where a defect of this parser shows, so that one message never stops a folder.
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
        # A second From is not the sender's: what follows it is up to whoever put it there.
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
    """`raw` without what mailbox files and editors put before a message, and with line ends of one kind."""
    if raw.startswith(_UTF8_BOM):
        raw = raw[len(_UTF8_BOM) :]
    if raw.startswith((b"From ", b">From ")) and (match := _MBOX_FROM.match(raw)):
        raw = raw[match.end() :]
    if b"\n" not in raw and b"\r" in raw:
        raw = raw.replace(b"\r", b"\n")
    return raw
