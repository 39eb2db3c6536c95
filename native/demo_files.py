"""Generates files as people attach them (PDF, PNG, iCalendar, ZIP, CSV), the same every time."""

import io
import struct
import zipfile
import zlib
from typing import NamedTuple


class File(NamedTuple):
    """An attachment."""

    name: str
    mime_type: str
    content: bytes


def pdf(title: str, pages: int) -> bytes:
    """A small document that PDF readers open."""
    kids = " ".join(f"{4 + 2 * page} 0 R" for page in range(pages))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {pages} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for page in range(pages):
        text = f"BT /F1 18 Tf 72 720 Td ({title}, page {page + 1}) Tj ET"
        resources = "/Resources << /Font << /F1 3 0 R >> >>"
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] {resources} /Contents {5 + 2 * page} 0 R >>"
        )
        objects.append(f"<< /Length {len(text)} >>\nstream\n{text}\nendstream")
    out = b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n"
    offsets = []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n".encode("latin-1")
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    start = len(out)
    out += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}".encode()
    return out + f"trailer << /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n".encode()


def png(width: int, height: int, noise: bytes) -> bytes:
    """A picture; `noise` (at least three bytes a pixel) keeps it from compressing to nothing, as photos do not."""
    rows = b"".join(b"\0" + noise[row * width * 3 : (row + 1) * width * 3] for row in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def invitation(uid: str, summary: str, organizer: str, start: str) -> bytes:
    """An iCalendar request (RFC 5546) for one hour from `start` (20260312T100000Z)."""
    end = f"{start[:9]}{int(start[9:11]) + 1:02}{start[11:]}"
    lines = (
        "BEGIN:VCALENDAR", "VERSION:2.0", "PRODID:-//Example//Calendar//EN", "METHOD:REQUEST", "BEGIN:VEVENT",
        f"UID:{uid}", f"DTSTAMP:{start}", f"DTSTART:{start}", f"DTEND:{end}", f"SUMMARY:{summary}",
        f"ORGANIZER:mailto:{organizer}", "END:VEVENT", "END:VCALENDAR", "",
    )  # fmt: skip
    return "\r\n".join(lines).encode()


def archive(files: dict[str, bytes]) -> bytes:
    """A ZIP file."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files.items():
            packed.writestr(zipfile.ZipInfo(name, (2026, 1, 2, 3, 4, 6)), content)
    return out.getvalue()


def table(rows: int) -> bytes:
    """A CSV file with some figures."""
    return b"month;orders;revenue\r\n" + b"".join(
        f"2025-{row % 12 + 1:02};{row * 37 % 911};{row * 7919 % 100_000},00\r\n".encode() for row in range(rows)
    )
