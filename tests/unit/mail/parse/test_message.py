"""Each pair of tests/fixtures/mail: NAME.eml parses to what NAME.json says, and to nothing else.

The JSON holds the fields of ParsedMessage that are not empty; `headers` only where the case is about them.
"""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tasks.mail.message import Attachment, ParsedMessage
from tasks.mail.parse.message import parse

FIXTURES = Path(__file__).parents[3] / "fixtures" / "mail"
MESSAGES = sorted(FIXTURES.glob("*.eml"))
EMPTY: dict[str, Any] = {
    "message_id": None,
    "in_reply_to": [],
    "references": [],
    "from_": [],
    "to": [],
    "cc": [],
    "bcc": [],
    "reply_to": [],
    "subject": "",
    "date": None,
    "text_body": None,
    "html_body": None,
    "attachments": [],
}


def readable(message: ParsedMessage) -> dict[str, Any]:
    """The message in the form of the JSON files."""
    found = json.loads(json.dumps(message._replace(date=None, attachments=())._asdict()))
    found["date"] = message.date.isoformat() if message.date else None
    found["attachments"] = [readable_attachment(attachment) for attachment in message.attachments]
    return found


def readable_attachment(attachment: Attachment) -> dict[str, Any]:
    found: dict[str, Any] = attachment._asdict()
    content = found.pop("content")
    found["size"] = len(content)
    found["sha256"] = hashlib.sha256(content).hexdigest()
    if content[:24].isascii():
        found["starts"] = content[:24].decode()
    else:
        found["starts_base64"] = base64.b64encode(content[:24]).decode()
    return found


def test_every_message_has_its_expectation() -> None:
    assert len(MESSAGES) >= 60
    assert [path.stem for path in MESSAGES] == sorted(path.stem for path in FIXTURES.glob("*.json"))


@pytest.mark.parametrize("path", MESSAGES, ids=lambda path: path.stem)
def test_fixture(path: Path) -> None:
    expected = EMPTY | json.loads(path.with_suffix(".json").read_text())
    found = readable(parse(path.read_bytes()))
    if "headers" not in expected:
        del found["headers"]
    assert found == expected
