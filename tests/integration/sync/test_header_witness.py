"""Damaged headers as the real Dovecot reads them: where ours reads another thing, it is listed with the reason."""

import imaplib
from collections.abc import Iterator

import pytest

from tasks.mail.parse.message import parse
from tests.support.mailbox import Mailbox

FIELDS = b"From: Ada <ada@one.example>\r\nSubject: plan\r\nMIME-Version: 1.0\r\n"
RECEIVED = b"Received: from a by b; Mon, 3 Mar 2025 10:00:00 +0100\r\n"
TEXT = b"Dear Bo,\r\nNote: bring bread.\r\n\r\nAda\r\n"

SAME = {
    "sound": FIELDS + b"\r\n" + TEXT,
    "line of spaces first": b"   \r\n" + FIELDS + b"\r\n" + TEXT,
    "envelope without date": b"From ada@one.example\r\n" + FIELDS + b"\r\n" + TEXT,
    "envelope": b"From ada@one.example Mon Mar  3 10:00:00 2025\r\n" + FIELDS + b"\r\n" + TEXT,
    "envelope inside": RECEIVED + b">From a@b Mon Mar  3 10:00:00 2025\r\n" + FIELDS + b"\r\n" + TEXT,
    "note first": b"Gateway note\r\n" + FIELDS + b"\r\n" + TEXT,
    "notes first": b"Gateway note\r\nmore of it\r\n-- \r\n" + FIELDS + b"\r\n" + TEXT,
    "status line first": b"HTTP/1.1 200 OK\r\n" + FIELDS + b"\r\n" + TEXT,
    "name of other letters": b"Gr\xc3\xbc\xc3\x9fe: x\r\n" + FIELDS + b"\r\n" + TEXT,
    "name with a blank": b"Mime Version: 1.0\r\n" + FIELDS + b"\r\n" + TEXT,
    "no name": b": x\r\n" + FIELDS + b"\r\n" + TEXT,
    "blanks before the colon": FIELDS.replace(b":", b" \t:") + b"\r\n" + TEXT,
    "two unfolded lines": b"Received: from a\r\nby b with SMTP\r\nid 7; date\r\n" + FIELDS + b"\r\n" + TEXT,
    "line of spaces inside": RECEIVED + b" \r\n" + FIELDS + b"\r\n" + TEXT,
    "line of spaces before a fold": b"X-Report:\r\n \r\n\tbad\r\n" + FIELDS + b"\r\n" + TEXT,
    "line of spaces and the end": FIELDS + b" \t\r\n\r\n" + TEXT,
    "carriage returns only": (FIELDS + b"\r\n" + TEXT).replace(b"\r\n", b"\r"),
    "carriage returns in the header": FIELDS.replace(b"\r\n", b"\r") + b"\r" + TEXT,
    "carriage return between two fields": FIELDS.replace(b"\r\nSubject", b"\rSubject") + b"\r\n" + TEXT,
    "line feeds": (FIELDS + b"\r\n" + TEXT).replace(b"\r\n", b"\n"),
    "no text": FIELDS,
}
# Here Dovecot loses a field or text that a person would see.
BETTER = {
    "first field indented": b" " + FIELDS + b"\r\n" + TEXT,
    "byte order mark": b"\xef\xbb\xbf" + FIELDS + b"\r\n" + TEXT,
    "byte order mark after a note": b"Note\r\n\xef\xbb\xbf" + FIELDS + b"\r\n" + TEXT,
    "empty line first": b"\r\n" + FIELDS + b"\r\n" + TEXT,
    "note and empty line first": b"Gateway note\r\n\r\n" + FIELDS + b"\r\n" + TEXT,
    "no empty line before the text": FIELDS + TEXT,
    "line of spaces for the empty line": FIELDS + b" \r\n" + TEXT,
}


@pytest.fixture
def imap(mailbox: Mailbox) -> Iterator[imaplib.IMAP4]:
    with imaplib.IMAP4(mailbox.host, mailbox.port, timeout=10) as client:
        client.login(mailbox.user, mailbox.password)
        client.select("INBOX")
        yield client


def as_dovecot(imap: imaplib.IMAP4, raw: bytes) -> tuple[dict[str, str], str]:
    """The fields that Dovecot finds among those asked for, by lower-case name, and what it takes for the text."""
    assert imap.append("INBOX", "", "", raw)[0] == "OK"
    number = imap.select("INBOX")[1][0].decode()
    asked = "BODY.PEEK[HEADER.FIELDS (From Subject MIME-Version)] BODY.PEEK[TEXT]"
    header, text = (item[1] for item in imap.fetch(number, f"({asked})")[1] if isinstance(item, tuple))
    pairs = [line.partition(":") for line in header.decode().splitlines() if line.strip()]
    return {name.strip().lower(): value.strip() for name, _, value in pairs}, text.decode().replace("\r\n", "\n")


def as_ours(raw: bytes) -> tuple[dict[str, str], str]:
    message = parse(raw)
    names = ("from", "subject", "mime-version")
    found = {name.lower(): values[0] for name, values in message.headers.items() if name.lower() in names}
    return found, message.text_body or ""


@pytest.mark.parametrize("name", SAME)
def test_reads_a_header_as_dovecot_does(imap: imaplib.IMAP4, name: str) -> None:
    assert as_ours(SAME[name]) == as_dovecot(imap, SAME[name])


@pytest.mark.parametrize("name", BETTER)
def test_reads_what_dovecot_loses(imap: imaplib.IMAP4, name: str) -> None:
    whole = as_ours(SAME["sound"])
    assert as_ours(BETTER[name]) == whole
    assert as_dovecot(imap, BETTER[name]) != whole
