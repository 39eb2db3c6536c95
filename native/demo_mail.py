"""The mail of the demo mailbox: a few hundred messages as in a real mailbox, the same for each seed."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.charset import Charset
from email.header import Header
from email.message import EmailMessage
from email.utils import format_datetime, formataddr
from typing import NamedTuple

from native import demo_files
from native.demo_broken import broken_messages
from native.demo_files import File
from native.demo_people import ENGLISH, ME, NEWSLETTERS, SPAM, TONGUES, Tongue

SEED = 20260301
_FIRST_DAY = datetime(2025, 9, 1, 7, 0, tzinfo=UTC)
_DAYS = 180

# The folders of the threads and how many threads each has; answers of the mailbox's owner are in Sent.
_THREADS = {
    "INBOX": 34,
    "Archive": 20,
    "Projects/Aurora": 10,
    "Projects/Aurora/Invoices": 6,
    "Projects/Hafen Süd": 6,
    "Входящие": 5,
    "日本語": 5,
    "Trash": 4,
}
_EMPTY_FOLDERS = ("Projects/Someday",)


class DemoMessage(NamedTuple):
    """A message and its folder. `flags` are those of Maildir: D(raft) F(lagged) R(eplied) S(een) T(rashed)."""

    folder: str
    raw: bytes
    flags: str
    received: datetime


def folders() -> list[str]:
    """All folders of the mailbox, the empty ones too."""
    return [*_THREADS, "Sent", "Drafts", "Junk", "Newsletters", "Entwürfe", *_EMPTY_FOLDERS]


def demo_messages(seed: int = SEED) -> Iterator[DemoMessage]:
    """The whole mailbox, in no particular order."""
    writer = _Writer(random.Random(seed))
    for folder, count in _THREADS.items():
        for _ in range(count):
            yield from writer.thread(folder)
    for number in range(24):
        yield writer.newsletter(number)
    for number in range(18):
        yield writer.spam(number)
    for number in range(5):
        yield writer.draft("Drafts" if number < 3 else "Entwürfe")
    for broken in broken_messages():
        yield DemoMessage("INBOX", broken.raw, "", writer.moment())


@dataclass
class _Letter:
    """A message about to be written."""

    sender: tuple[str, str]
    recipient: tuple[str, str]
    subject: str
    text: str
    tongue: Tongue
    date: datetime
    message_id: str
    references: tuple[str, ...] = ()
    html: str | None = None
    files: tuple[File, ...] = ()
    picture: bytes | None = None
    extra: tuple[tuple[str, str], ...] = ()


class _Writer:
    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self._written = 0

    def thread(self, folder: str) -> Iterator[DemoMessage]:
        """A conversation of one to seven messages between the owner and somebody else."""
        dice = self._dice
        tongue = {"日本語": TONGUES[8], "Входящие": TONGUES[7]}.get(folder) or dice.choice(TONGUES)
        other = dice.choice(tongue.people)
        subject, date = dice.choice(tongue.subjects), self.moment()
        references: tuple[str, ...] = ()
        quoted = ""
        for turn in range(dice.choice((1, 1, 2, 2, 3, 4, 5, 7))):
            mine = turn % 2 == 1
            letter = self._letter(ME if mine else other, other if mine else ME, subject, tongue, date)
            letter.text += quoted
            letter.references = references
            if turn:
                letter.subject = f"Re: {subject}"
            if not mine and folder != "Trash" and dice.random() < (0.9 if folder.endswith("Invoices") else 0.4):
                self._attach(letter)
            yield DemoMessage("Sent" if mine else folder, _render(letter, dice), self._flags(folder, mine), date)
            references = (*references, letter.message_id)
            quoted = "\n\n" + "".join(f"> {line}\n" for line in letter.text.splitlines()[:12])
            date += timedelta(minutes=dice.randrange(7, 3000))

    def newsletter(self, number: int) -> DemoMessage:
        """An HTML newsletter with remote pictures and List-Unsubscribe (RFC 2369)."""
        name, address, subject = NEWSLETTERS[number % len(NEWSLETTERS)]
        letter = self._letter((name, address), ME, f"{subject} (No. {100 + number})", ENGLISH, self.moment())
        letter.html = _newsletter_html(name, letter.text)
        letter.extra = (("List-Id", f"<{address.replace('@', '.')}>"), ("List-Unsubscribe", f"<mailto:{address}>"))
        flags = "S" if self._dice.random() < 0.5 else ""
        return DemoMessage("Newsletters", _render(letter, self._dice), flags, letter.date)

    def spam(self, number: int) -> DemoMessage:
        """A spam message."""
        name, address, subject = SPAM[number % len(SPAM)]
        letter = self._letter((name, address), ME, subject, ENGLISH, self.moment())
        letter.html = f'<p><a href="http://click.example/{number}">{subject}</a><script>alert(1)</script></p>'
        return DemoMessage("Junk", _render(letter, self._dice), "", letter.date)

    def draft(self, folder: str) -> DemoMessage:
        """An unfinished message."""
        tongue = self._dice.choice(TONGUES)
        letter = self._letter(ME, tongue.people[0], tongue.subjects[0], tongue, self.moment())
        return DemoMessage(folder, _render(letter, self._dice), "DS", letter.date)

    def moment(self) -> datetime:
        """A time in the period of the mailbox."""
        return _FIRST_DAY + timedelta(minutes=self._dice.randrange(_DAYS * 24 * 60))

    def _letter(
        self, sender: tuple[str, str], recipient: tuple[str, str], subject: str, tongue: Tongue, date: datetime
    ) -> _Letter:
        self._written += 1
        paragraphs = [
            " ".join(self._dice.sample(tongue.sentences, self._dice.randrange(1, 1 + len(tongue.sentences) // 2)))
            for _ in range(self._dice.randrange(1, 5))
        ]
        text = "\n\n".join([*paragraphs, f"-- \n{sender[0]}"])
        message_id = f"<{self._written:04}.{self._dice.randrange(16**8):08x}@{sender[1].partition('@')[2]}>"
        return _Letter(sender, recipient, subject, text, tongue, date, message_id)

    def _attach(self, letter: _Letter) -> None:
        dice = self._dice
        kind = dice.choice(("pdf", "pdf", "picture", "picture", "ics", "zip", "csv"))
        if kind == "pdf":
            name = dice.choice(("invoice-2026-014.pdf", "Übersicht März.pdf", "見積書.pdf", "Agenda (final).pdf"))
            letter.files = (File(name, "application/pdf", demo_files.pdf("Invoice", dice.randrange(3, 60))),)
        elif kind == "picture":
            side = dice.randrange(40, 160)
            letter.picture = demo_files.png(side, side, dice.randbytes(side * side * 3))
            letter.html = f'<p>{letter.text}</p><p><img src="cid:picture@demo" alt="picture"></p>'
        elif kind == "ics":
            day = letter.date + timedelta(days=7)
            start = f"{day:%Y%m%d}T100000Z"
            event = demo_files.invitation(letter.message_id[1:9], letter.subject, letter.sender[1], start)
            letter.files = (File("invite.ics", "text/calendar", event),)
        elif kind == "zip":
            packed = demo_files.archive({"report.csv": demo_files.table(400), "noise.bin": dice.randbytes(30_000)})
            letter.files = (File("report.zip", "application/zip", packed),)
        else:
            letter.files = (
                File("figures.csv", "text/csv", demo_files.table(dice.randrange(50, 3000))),
                File("notes.txt", "text/plain", b"See the second sheet.\n"),
            )

    def _flags(self, folder: str, mine: bool) -> str:
        chance = self._dice.random()
        if mine or folder in ("Archive", "Trash"):
            return "S"
        if folder == "INBOX" and chance < 0.35:
            return ""
        if chance < 0.45:
            return "FS"
        return "RS" if chance < 0.7 else "S"


def _render(letter: _Letter, dice: random.Random) -> bytes:
    """The bytes of the message: headers by hand, in the charset of the sender's program, and the MIME body."""
    charset = letter.tongue.charset
    headers = [
        ("Return-Path", f"<{letter.sender[1]}>"),
        ("From", formataddr(letter.sender, Charset(charset))),
        ("To", formataddr(letter.recipient, Charset("utf-8"))),
        ("Subject", Header(letter.subject, charset, header_name="Subject").encode()),
        ("Date", format_datetime(letter.date)),
        ("Message-ID", letter.message_id),
        *letter.extra,
    ]
    if letter.references:
        headers += [("In-Reply-To", letter.references[-1]), ("References", "\n ".join(letter.references))]
    head = "".join(f"{name}: {value}\n" for name, value in headers)
    return head.encode("ascii") + _body(letter, dice).as_bytes()


def _body(letter: _Letter, dice: random.Random) -> EmailMessage:
    body = EmailMessage()
    charset, encoding = letter.tongue.charset, letter.tongue.transfer_encoding
    if not (letter.text + letter.tongue.subjects[0]).isascii() and encoding == "7bit" and charset == "utf-8":
        encoding = "8bit"
    body.set_content(letter.text, charset=charset, cte=encoding)
    if letter.html is not None:
        body.add_alternative(letter.html, subtype="html", charset="utf-8", cte="quoted-printable")
    if letter.picture is not None:
        page = list(body.iter_parts())[1]
        assert isinstance(page, EmailMessage)
        page.add_related(
            letter.picture, "image", "png", cid="<picture@demo>", filename="picture.png", disposition="inline"
        )
    for file in letter.files:
        kind, _, subtype = file.mime_type.partition("/")
        body.add_attachment(file.content, kind, subtype, filename=file.name)
    for part in body.walk():
        if part.is_multipart():
            part.set_boundary(f"=_{dice.randrange(16**16):016x}")
    return body


def _newsletter_html(name: str, text: str) -> str:
    paragraphs = "".join(f"<p>{paragraph}</p>" for paragraph in text.split("\n\n"))
    return (
        "<!DOCTYPE html><html><head><style>td {font-family: sans-serif}</style></head><body>"
        f'<table width="600"><tr><td><img src="https://news.example/logo.png" alt="{name}"><h1>{name}</h1>'
        f'{paragraphs * 6}<p><a href="https://news.example/unsubscribe">Unsubscribe</a></p>'
        '<img src="https://news.example/pixel.gif" width="1" height="1"></td></tr></table></body></html>'
    )
