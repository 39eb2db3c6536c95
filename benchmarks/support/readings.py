"""What parsers make of a message, in a form in which they can be compared.

Ours, the standard library's (`policy.default`), and two of npm's, `postal-mime` and `mailparser`, where node and the
packages are there. White space, the case of addresses and how HTML becomes text are no differences.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from html import unescape
from pathlib import Path
from typing import Any, NamedTuple

from tasks.mail.parse.message import parse

NPM_PARSERS = ("postal-mime", "mailparser")
_SCRIPT = Path(__file__).with_name("npm_parsers.mjs")
_MARKUP = re.compile(r"<(style|script|title|head)\b.*?</\1>|<!--.*?-->|<[^>]*>", re.DOTALL | re.IGNORECASE)
_SPACE = re.compile(r"[\s\u00a0\u200b\ufeff]+")
_BODIES = ("text/plain", "text/html")


class Reading(NamedTuple):
    """A message as one parser reads it. `names` are those of attachments, in alphabetical order."""

    subject: str
    senders: tuple[str, ...]
    recipients: tuple[str, ...]
    date: int | None
    text: str
    attachments: int
    names: tuple[str, ...]


Reader = Callable[[Sequence[Path]], Iterator[Reading | None]]


def ours(paths: Sequence[Path]) -> Iterator[Reading | None]:
    """As this project reads them."""
    for path in paths:
        message = parse(path.read_bytes())
        yield reading(
            message.subject,
            [sender.address for sender in message.from_],
            [recipient.address for recipient in message.to],
            message.date,
            message.text_body or _text_of(message.html_body),
            [(attached.mime_type, attached.filename) for attached in message.attachments],
        )


def library(paths: Sequence[Path]) -> Iterator[Reading | None]:
    """As the standard library reads them; None where it raises."""
    for path in paths:
        try:
            yield _by_library(path.read_bytes())
        # It raises a dozen kinds of errors on broken messages.
        except Exception:
            yield None


def _by_library(raw: bytes) -> Reading:
    message = message_from_bytes(raw, policy=policy.default)
    assert isinstance(message, EmailMessage)
    date = message["date"]
    plain = [part for part in _leaves(message) if _is_body(part, "text/plain")]
    html = [part for part in _leaves(message) if _is_body(part, "text/html")]
    return reading(
        str(message["subject"] or ""),
        [address.addr_spec for address in message["from"].addresses] if message["from"] else [],
        [address.addr_spec for field in message.get_all("to", []) for address in field.addresses],
        date.datetime if date else None,
        "".join(part.get_content() for part in plain) or _text_of("".join(part.get_content() for part in html)),
        [(part.get_content_type(), part.get_filename()) for part in _leaves(message) if not _is_body(part, *_BODIES)],
    )


def _leaves(message: EmailMessage) -> Iterator[EmailMessage]:
    if not message.is_multipart() or message.get_content_maintype() == "message":
        yield message
        return
    for part in message.iter_parts():
        assert isinstance(part, EmailMessage)
        yield from _leaves(part)


def _is_body(part: EmailMessage, *kinds: str) -> bool:
    return part.get_content_type() in kinds and not part.is_attachment() and not part.get_filename()


def npm(package: str, modules: Path) -> Reader | None:
    """A reader by a package of npm in the folder `modules`; None where node or the package is missing."""
    if shutil.which("node") is None or not (modules / package).is_dir():
        return None

    def read(paths: Sequence[Path]) -> Iterator[Reading | None]:
        command = ["node", str(_SCRIPT), package, str(modules.resolve())]
        listing = "\n".join(str(path.resolve()) for path in paths)
        done = subprocess.run(command, input=listing, capture_output=True, text=True, check=True)
        for line in done.stdout.rstrip("\n").split("\n"):
            found = json.loads(line)
            yield _by_npm(found) if found else None

    return read


def _by_npm(found: dict[str, Any]) -> Reading:
    # The year may have six digits and a sign.
    date = datetime.fromisoformat(found["date"]) if found["date"] and found["date"][0].isdigit() else None
    return reading(
        found["subject"],
        found["from"],
        found["to"],
        date,
        found["text"] or _text_of(found["html"]),
        [(kind or "", name) for kind, name in found["attachments"]],
    )


def reading(
    subject: str,
    senders: Sequence[str],
    recipients: Sequence[str],
    date: datetime | None,
    text: str,
    attachments: Sequence[tuple[str, str | None]],
) -> Reading:
    """The values of a parser without what is no difference."""
    if date is not None and date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    # An attached message has no name of its own; some parsers take its subject.
    names = (name or "" for kind, name in attachments if not kind.startswith("message/"))
    return Reading(
        _SPACE.sub(" ", subject).strip(),
        tuple(sorted({address.lower().strip("<> ") for address in senders if address})),
        tuple(sorted({address.lower().strip("<> ") for address in recipients if address})),
        int(date.timestamp()) if date else None,
        _SPACE.sub("", text),
        len(attachments),
        tuple(sorted(names)),
    )


def _text_of(html: str | None) -> str:
    return unescape(_MARKUP.sub(" ", html or ""))
