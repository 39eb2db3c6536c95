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
_UTF8_BOM = b"\xef\xbb\xbf"


def parse(raw: bytes) -> ParsedMessage:
    """The message in `raw`. What is broken is read as far as it can be.

    Raises MessageUnparsableError where a defect of this parser shows, so that one message never stops a folder.
    """
    try:
        return _parse(raw)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise MessageUnparsableError(f"{type(error).__name__} in the parser") from error


def _parse(raw: bytes) -> ParsedMessage:
    fields, root = read(_normal(raw))
    charset = root.charset
    names: dict[str, str] = {}
    values: dict[str, list[str]] = {}
    headers: dict[str, list[str]] = {}
    for name, value in fields:
        key = name.lower()
        if value.isascii() and "=?" not in value and "\0" not in value:
            text = value
        else:
            text = decode_value(value, charset)
        if key in values:
            values[key].append(value)
            headers[names[key]].append(text)
        else:
            names[key] = name
            values[key] = [value]
            headers[name] = [text]

    def first(key: str) -> str:
        return headers[names[key]][0] if key in names else ""

    def mailboxes(key: str) -> tuple[Address, ...]:
        if key not in values:
            return ()
        if len(values[key]) == 1:
            return addresses(values[key][0], charset)
        return tuple(address for value in values[key] for address in addresses(value, charset))

    content = bodies(root)
    return ParsedMessage(
        message_id=next(iter(identifiers(first("message-id"))), None),
        in_reply_to=identifiers(first("in-reply-to")),
        references=identifiers(first("references")),
        from_=mailboxes("from"),
        to=mailboxes("to"),
        cc=mailboxes("cc"),
        bcc=mailboxes("bcc"),
        reply_to=mailboxes("reply-to"),
        subject=one_line(first("subject")),
        date=date(first("date")),
        text_body=content.text,
        html_body=content.html,
        headers=headers,
        attachments=content.attachments,
    )


def _normal(raw: bytes) -> bytes:
    """`raw` without what mailbox files and editors put before a message, and with line ends of one kind."""
    if raw.startswith(_UTF8_BOM):
        raw = raw[len(_UTF8_BOM) :]
    if raw.startswith((b"From ", b">From ")) and (match := _MBOX_FROM.match(raw)):
        raw = raw[match.end() :]
    if b"\n" not in raw and b"\r" in raw:
        raw = raw.replace(b"\r", b"\n")
    return raw
