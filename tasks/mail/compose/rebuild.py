"""Makes the bytes of a message again from its stored fields, for spam engines.

The bytes that the server gave are not kept. The header has the decoded fields without the MIME fields, Received first
and the others in no order; so signatures no longer fit. The bodies are the text and the sanitised HTML.
"""

from collections.abc import Iterator
from email.message import EmailMessage
from email.policy import SMTP

from tasks.mail.message import ParsedMessage

_FIRST = ("return-path", "received")


def rebuild(message: ParsedMessage) -> bytes:
    """A message with the same fields, bodies and files (RFC 5322). Lines end in CRLF."""
    mime = EmailMessage()
    if message.text_body is not None or message.html_body is None:
        mime.set_content(message.text_body or "", cte="base64")
    if message.html_body is not None:
        add = mime.add_alternative if message.text_body is not None else mime.set_content
        add(message.html_body, subtype="html", cte="base64")
    for attachment in message.attachments:
        kind, _, subtype = attachment.mime_type.partition("/")
        if kind in ("", "message", "multipart") or not subtype:
            kind, subtype = "application", "octet-stream"
        mime.add_attachment(attachment.content, kind, subtype, filename=attachment.filename)
    body = mime.as_bytes(policy=SMTP.clone(max_line_length=0))
    head = "".join(f"{name}: {_one_line(value)}\r\n" for name, value in _fields(message))
    return head.encode() + body


def _fields(message: ParsedMessage) -> Iterator[tuple[str, str]]:
    by_rank = sorted(message.headers.items(), key=lambda field: field[0].lower() not in _FIRST)
    for name, values in by_rank:
        if not name.lower().startswith(("content-", "mime-version")):
            for value in values:
                yield name, value


def _one_line(value: str) -> str:
    return " ".join(value.splitlines())
