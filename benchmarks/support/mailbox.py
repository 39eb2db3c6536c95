"""Makes mail that looks like real mail in numbers: sizes, structure, attachments.

Mean about 21 kB: two thirds of the messages carry HTML of 1 to 14 kB beside their text of up to 4 kB, one in ten has
an attachment of 5 to 300 kB, and every message has some twenty header fields. Deterministic for a seed.
"""

import base64
import imaplib
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

from native.dovecot import Dovecot

_SEED = 20260302
_WORDS = 4000
_PARAGRAPHS = 600
_WITH_HTML, _WITH_ATTACHMENT, _READ, _REPLIES = 0.67, 0.10, 0.66, 0.4
_START = datetime(2024, 1, 1, tzinfo=UTC)


def build(maildir: Path, count: int) -> int:
    """Put `count` messages into a new INBOX on disk and return their size in bytes."""
    for folder in ("cur", "new", "tmp"):
        (maildir / folder).mkdir(parents=True, exist_ok=True)
    writer = _Writer(_SEED)
    total = 0
    for number in range(count):
        raw = writer.message(number)
        seen = "S" if writer.random.random() < _READ else ""
        name = f"{1_700_000_000 + number}.M{number}P1.bench,S={len(raw)},W={len(raw)}:2,{seen}"
        (maildir / "cur" / name).write_bytes(raw)
        total += len(raw)
    return total


def append(dovecot: Dovecot, user: str, count: int, first: int) -> None:
    """Add messages number `first` to `first + count - 1`, of a few hundred bytes each, over IMAP (RFC 3502)."""
    writer = _Writer(_SEED + first)
    messages = [writer.small(number) for number in range(first, first + count)]
    with imaplib.IMAP4(dovecot.host, dovecot.port, timeout=60) as client:
        client.login(user, dovecot.password)
        literals = b"".join(b" {%d+}\r\n%b" % (len(raw), raw) for raw in messages)
        client.send(b"many APPEND INBOX" + literals + b"\r\n")
        while not (line := client.readline()).startswith(b"many "):
            if not line:
                raise SystemExit("Dovecot hung up in the middle of an APPEND")
        if not line.startswith(b"many OK"):
            raise SystemExit(f"Dovecot refused an APPEND: {line!r}")


def message_maker() -> Callable[[int], bytes]:
    """Makes the message of a number, like those of `build`."""
    return _Writer(_SEED).message


class _Writer:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        letters = "abcdefghijklmnoprstuvwyäöüéñ"
        words = ["".join(self.random.choices(letters, k=self.random.randint(2, 10))) for _ in range(_WORDS)]
        self._paragraphs = [
            " ".join(self.random.choices(words, k=self.random.randint(8, 40))) for _ in range(_PARAGRAPHS)
        ]

    def small(self, number: int) -> bytes:
        return self._headers(number) + b'Content-Type: text/plain; charset="utf-8"\r\n\r\nHello.\r\n'

    def message(self, number: int) -> bytes:
        parts = [_part("text/plain", self._text())]
        if self.random.random() < _WITH_HTML:
            parts = [_multipart("alternative", number, [*parts, _part("text/html", self._html())])]
        if self.random.random() < _WITH_ATTACHMENT:
            parts = [_multipart("mixed", number, [*parts, self._attachment(number)])]
        return self._headers(number) + parts[0]

    def _headers(self, number: int) -> bytes:
        date = format_datetime(_START + timedelta(minutes=number))
        sender = f"person{number % 311}@example.org"
        lines = [
            *(
                f"Received: from relay{hop}.example.org (relay{hop}.example.org [192.0.2.{hop}])\r\n"
                f"\tby mx{hop}.example.net with ESMTPS id {self.random.getrandbits(64):016x}; {date}"
                for hop in range(4)
            ),
            "DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=example.org; s=mail;\r\n\tbh="
            f"{_base64(self.random.randbytes(32))};\r\n\tb={_base64(self.random.randbytes(96))}",
            "Authentication-Results: mx.example.net; dkim=pass header.d=example.org; spf=pass; dmarc=pass",
            f"Return-Path: <{sender}>",
            f"From: Person {number % 311} <{sender}>",
            "To: Benchmark <bench@example.net>, Other Person <other@example.net>",
            f"Subject: {self._paragraph()[:50].encode('ascii', 'ignore').decode()}",
            f"Date: {date}",
            f"Message-ID: <{number}.bench@example.org>",
            "MIME-Version: 1.0",
            "X-Mailer: Benchmark 1.0",
            "List-Unsubscribe: <https://example.org/unsubscribe>",
        ]
        if number and self.random.random() < _REPLIES:
            parent = self.random.randrange(max(0, number - 500), number)
            lines += [f"In-Reply-To: <{parent}.bench@example.org>", f"References: <{parent}.bench@example.org>"]
        return "".join(f"{line}\r\n" for line in lines).encode()

    def _paragraph(self) -> str:
        return self.random.choice(self._paragraphs)

    def _text(self) -> str:
        return "\r\n\r\n".join(self._paragraph() for _ in range(self.random.randint(1, 22)))

    def _html(self) -> str:
        rows = "\r\n".join(
            f'<tr><td class="cell" style="padding: 4px; color: #333"><p style="margin: 0">{self._paragraph()} '
            f'<a href="https://example.org/{index}">more</a></p></td></tr>'
            for index in range(self.random.randint(3, 46))
        )
        head = "<style>.cell { font: 14px sans-serif }</style>"
        return f"<html><head>{head}</head><body><table>{rows}</table></body></html>"

    def _attachment(self, number: int) -> bytes:
        content = self.random.randbytes(self.random.randint(5_000, 150_000))
        encoded = base64.encodebytes(content).replace(b"\n", b"\r\n")
        return (
            b'Content-Type: application/pdf; name="report-%d.pdf"\r\nContent-Transfer-Encoding: base64\r\n'
            b'Content-Disposition: attachment; filename="report-%d.pdf"\r\n\r\n' % (number, number)
        ) + encoded


def _part(media_type: str, text: str) -> bytes:
    return (
        f'Content-Type: {media_type}; charset="utf-8"\r\nContent-Transfer-Encoding: 8bit\r\n\r\n{text}\r\n'
    ).encode()


def _multipart(kind: str, number: int, parts: list[bytes]) -> bytes:
    boundary = f"{kind}-{number}"
    head = f'Content-Type: multipart/{kind}; boundary="{boundary}"\r\n\r\n'.encode()
    delimited = b"".join(b"--" + boundary.encode() + b"\r\n" + part + b"\r\n" for part in parts)
    return head + delimited + b"--" + boundary.encode() + b"--\r\n"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
