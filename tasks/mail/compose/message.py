"""Makes the bytes of a message to be sent (RFC 5322, RFC 2045 to 2047).

The same draft, id and date give the same bytes.

The bytes are made once, before the abilities of the SMTP server are known, so they suit every server: seven bits,
lines within 998 characters, CRLF. Only an address with a local part beyond ASCII needs SMTPUTF8 (RFC 6531), as there
is no other way to write it. The bytes never contain Bcc.
"""

import hashlib
import re
from base64 import encodebytes
from binascii import b2a_qp
from collections.abc import Sequence
from datetime import datetime
from email.utils import format_datetime
from typing import NamedTuple

from tasks.mail.compose.fields import address_list, unstructured, with_parameter
from tasks.mail.message import Address, Attachment
from tasks.mail.parse.charset import storable

_CRLF = b"\r\n"
_LINE_END = re.compile(r"\r\n|\r|\n")
_MAX_LINE_LENGTH = 998
_CONTROLS = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
# RFC 6838 section 4.2: each of the two names has at most 127 characters.
_MIME_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}")
_ANY_TYPE = "application/octet-stream"
# A Content-ID cannot be folded, and its line has at most 998 characters.
_CONTENT_ID = re.compile(r"[\x21-\x3b\x3d\x3f-\x7e]{1,900}")


class Draft(NamedTuple):
    """The content of a message. Addresses must have been checked. Bcc is only in the envelope, so it is not here."""

    sender: Address
    to: tuple[Address, ...]
    cc: tuple[Address, ...]
    subject: str
    text: str
    html: str | None
    attachments: tuple[Attachment, ...] = ()


class _Part(NamedTuple):
    """A MIME entity: its header fields, each ending in CRLF, and its body, encoded."""

    fields: bytes
    body: bytes

    def to_bytes(self) -> bytes:
        return self.fields + _CRLF + self.body


def compose(draft: Draft, message_id: str, date: datetime) -> bytes:
    """The message. `message_id` is without angle brackets, `date` aware."""
    content = _content(draft, hashlib.sha256(message_id.encode()).hexdigest()[:24])
    recipients = [
        address_list(name, addresses) for name, addresses in (("To", draft.to), ("Cc", draft.cc)) if addresses
    ]
    fields = [
        address_list("From", [draft.sender]),
        *(recipients or [b"To: undisclosed-recipients:;\r\n"]),
        unstructured("Subject", draft.subject),
        f"Date: {format_datetime(date)}\r\n".encode(),
        f"Message-ID: <{message_id}>\r\n".encode(),
        b"MIME-Version: 1.0\r\n",
    ]
    return b"".join((*fields, content.to_bytes()))


def _content(draft: Draft, token: str) -> _Part:
    html = draft.html
    inline = [a for a in draft.attachments if html and _is_named(a) and f"cid:{a.content_id}" in html]
    files = [a for a in draft.attachments if a not in inline]
    bodies = [_text("plain", draft.text)] if draft.text or not html else []
    if html:
        shown = _text("html", html)
        if inline:
            related = [shown, *(_file(attachment, is_inline=True) for attachment in inline)]
            shown = _multipart("related", related, f"r{token}", ' type="text/html";')
        bodies.append(shown)
    content = _multipart("alternative", bodies, f"a{token}") if len(bodies) > 1 else bodies[0]
    if files:
        return _multipart("mixed", [content, *(_file(attachment) for attachment in files)], f"m{token}")
    return content


def _multipart(subtype: str, parts: Sequence[_Part], token: str, parameters: str = "") -> _Part:
    # "=_" occurs in no quoted-printable and no base64 (RFC 2045 section 6.7), and the rest cannot be guessed.
    boundary = f"=_{token}"
    delimiter = f"--{boundary}".encode()
    body = b"".join(line for part in parts for line in (delimiter, _CRLF, part.to_bytes(), _CRLF))
    fields = f'Content-Type: multipart/{subtype};{parameters}\r\n boundary="{boundary}"\r\n'.encode()
    return _Part(fields, body + delimiter + b"--" + _CRLF)


def _text(subtype: str, text: str) -> _Part:
    data = _LINE_END.sub("\r\n", storable(text)).encode()
    data += b"" if data.endswith(_CRLF) else _CRLF
    encoding, body = _encoded(data)
    fields = f"Content-Type: text/{subtype}; charset=utf-8\r\nContent-Transfer-Encoding: {encoding}\r\n"
    return _Part(fields.encode(), body)


def _encoded(data: bytes) -> tuple[str, bytes]:
    """The name of an encoding and the encoded text: unencoded if possible, else in the shorter encoding."""
    if data.isascii() and _fits(data):
        return "7bit", data
    if 4 * sum(byte > 127 for byte in data) > len(data):
        return "base64", _base64(data)
    return "quoted-printable", b2a_qp(data, istext=True)


def _fits(data: bytes) -> bool:
    return max(map(len, data.split(_CRLF))) <= _MAX_LINE_LENGTH and not _CONTROLS.search(data)


def _file(attachment: Attachment, *, is_inline: bool = False) -> _Part:
    mime_type, encoding, body = _file_content(attachment)
    disposition = "inline" if is_inline else "attachment"
    if attachment.filename:
        mime_type = with_parameter(mime_type, "name", attachment.filename)
        disposition = with_parameter(disposition, "filename", attachment.filename)
    fields = f"Content-Type: {mime_type}\r\nContent-Transfer-Encoding: {encoding}\r\n"
    fields += f"Content-Disposition: {disposition}\r\n"
    if _is_named(attachment):
        fields += f"Content-ID: <{attachment.content_id}>\r\n"
    return _Part(fields.encode(), body)


def _is_named(attachment: Attachment) -> bool:
    """Whether the attachment has a Content-ID that is valid in a header."""
    return attachment.content_id is not None and _CONTENT_ID.fullmatch(attachment.content_id) is not None


def _file_content(attachment: Attachment) -> tuple[str, str, bytes]:
    content, mime_type = attachment.content, attachment.mime_type.lower()
    if mime_type == "message/rfc822":
        # An attached message must not be encoded (RFC 2046 section
        # 5.2.1). If it does not fit unencoded, it goes as a file.
        mail = re.sub(rb"\r\n|\r|\n", _CRLF, content)
        if mail.isascii() and _fits(mail):
            return mime_type, "7bit", mail
    is_plain = _MIME_TYPE.fullmatch(mime_type) and not mime_type.startswith(("multipart/", "message/"))
    return mime_type if is_plain else _ANY_TYPE, "base64", _base64(content)


def _base64(data: bytes) -> bytes:
    return encodebytes(data).replace(b"\n", _CRLF)
