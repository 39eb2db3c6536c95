"""What the spam rules find in a message that a test writes."""

from collections.abc import Mapping

from tasks.mail.parse.message import parse
from tasks.mail.spam import judge
from tasks.mail.spam.evidence import Addressee

OWN_ADDRESS = "bob@brightwater.example"
OWN_SERVER = "mx.brightwater.example"
RECIPIENT = Addressee(OWN_ADDRESS, frozenset({OWN_SERVER}))

_ORDINARY = {
    "From": "Ada Byron <ada@example.org>",
    "To": f"Bob <{OWN_ADDRESS}>",
    "Subject": "Minutes of Tuesday",
    "Date": "Mon, 02 Mar 2026 10:00:00 +0000",
    "Message-ID": "<1@example.org>",
}


def letter(body: str = "See you on Friday.", kind: str = "plain", **headers: str | None) -> bytes:
    """An ordinary message but for what is given; underscores in names stand for hyphens, and None leaves one out."""
    fields: Mapping[str, str | None] = {**_ORDINARY, **{k.replace("_", "-"): v for k, v in headers.items()}}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value is not None)
    return (f"{head}MIME-Version: 1.0\r\nContent-Type: text/{kind}; charset=utf-8\r\n\r\n{body}\r\n").encode()


def with_file(name: str, content: bytes, mime_type: str = "application/octet-stream") -> bytes:
    """An ordinary message with a file."""
    from email.message import EmailMessage

    mail = EmailMessage()
    for field, value in _ORDINARY.items():
        mail[field] = value
    mail.set_content("See the file.\n")
    mail.add_attachment(content, *mime_type.split("/"), filename=name)
    return mail.as_bytes()


def findings(raw: bytes, recipient: Addressee = RECIPIENT) -> dict[str, str]:
    """The rules that the message meets, with their details."""
    return {indicator.rule: indicator.detail for indicator in judge(parse(raw), recipient).indicators}


def score(raw: bytes, recipient: Addressee = RECIPIENT) -> float:
    """The score of the message."""
    return judge(parse(raw), recipient).score
