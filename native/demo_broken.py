"""Mail that breaks the rules, as every mailbox has some. A sync must neither stop at such mail nor lose it."""

from collections.abc import Iterator
from typing import NamedTuple


class Broken(NamedTuple):
    """A broken message: what is wrong with it, and its bytes."""

    subject: str
    raw: bytes


def broken_messages() -> Iterator[Broken]:
    """One of each kind."""
    for number, (subject, headers, body) in enumerate(_KINDS):
        head = (
            f"From: Old Mailer <robot{number}@legacy.example>\n"
            "To: demo@example.org\n"
            f"Subject: {subject}\n"
            f"Message-ID: <broken-{number}@legacy.example>\n"
        ).encode("latin-1")
        date = b"" if b"Date:" in headers else b"Date: Thu, 05 Mar 2026 08:00:00 +0000\n"
        yield Broken(subject, head + date + headers + b"\n" + body)


_PLAIN = b"MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n"
_KINDS: tuple[tuple[str, bytes, bytes], ...] = (
    (
        "Unknown charset",
        b"MIME-Version: 1.0\nContent-Type: text/plain; charset=x-klingon-8\nContent-Transfer-Encoding: 8bit\n",
        "Grüße aus einem Zeichensatz, den niemand kennt.\n".encode("latin-1"),
    ),
    (
        "Wrong charset: says ASCII, is UTF-8",
        b"MIME-Version: 1.0\nContent-Type: text/plain; charset=us-ascii\nContent-Transfer-Encoding: 7bit\n",
        "Žluťoučký kůň – naïve café ☕\n".encode(),
    ),
    (
        "Broken base64",
        b"MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: base64\n",
        b"VGhpcyBpcyBub3Qgd2VsbC1mb3JtZWQ*!!\nYmFzZTY0IGF0IGFsbA\n===stray\n",
    ),
    (
        "Missing boundary",
        b"MIME-Version: 1.0\nContent-Type: multipart/mixed\n",
        b"--nobody-knows\nContent-Type: text/plain\n\nThe boundary parameter was forgotten.\n--nobody-knows--\n",
    ),
    (
        "Boundary never closed",
        b'MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="open"\n',
        b"--open\nContent-Type: text/plain\n\nFirst part.\n--open\nContent-Type: application/pdf\n"
        b"Content-Transfer-Encoding: base64\n\nJVBERi0xLjQK\n",
    ),
    ("Impossible date", b"Date: Fri, 31 Feb 2026 25:61:00 +9900\n" + _PLAIN, b"Sent on a day that never was.\n"),
    ("NUL bytes", _PLAIN, b"Before the NUL\x00 and after\x00\x00 it.\n"),
    (
        "Broken quoted-printable",
        b"MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n",
        b"100 =G8 of the tests =\n passed =C3=9Cber=",
    ),
    ("Raw 8-bit in a header: \xe4\xf6\xfc", _PLAIN, b"A subject without any encoding.\n"),
    ("No body at all", _PLAIN, b""),
)
