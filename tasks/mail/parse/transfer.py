"""Content-Transfer-Encoding (RFC 2045 section 6), and uuencode, which came before it."""

import re
from binascii import Error as BinasciiError
from binascii import a2b_qp, a2b_uu
from contextlib import suppress

from tasks.mail.parse.headers import base64_bytes

_SOFT_BREAK_WITH_SPACE = re.compile(rb"=[ \t]++(?=\r?\n)")
# The beginning of text that is labelled base64 but not encoded: no encoder puts blanks into a line.
_WORDS = re.compile(rb"\s*+[^\s]++[ \t]++[^\s]")
_END_OF_TOKEN = re.compile(r"[;(\s]")
_UUENCODE = frozenset({"x-uuencode", "uuencode", "x-uue", "uue"})


def decoded(data: bytes, start: int, end: int, encoding: str) -> bytes:
    """`data[start:end]` decoded from its Content-Transfer-Encoding.

    With an unknown or wrong encoding, whatever can be read is returned.
    """
    encoding = encoding.lower()
    if encoding not in ("quoted-printable", "base64"):
        encoding = _END_OF_TOKEN.split(encoding.strip(), maxsplit=1)[0]
    if encoding == "base64" and not _WORDS.match(data, start, end):
        return base64_bytes(memoryview(data)[start:end])
    body = data[start:end]
    if encoding == "quoted-printable":
        if b"= " in body or b"=\t" in body:
            body = _SOFT_BREAK_WITH_SPACE.sub(b"=", body)
        return a2b_qp(body)
    return _uudecoded(body) if encoding in _UUENCODE else body


def _uudecoded(body: bytes) -> bytes:
    lines = body.splitlines()
    begin = next((number for number, line in enumerate(lines) if line.startswith(b"begin ")), None)
    if begin is None:
        return body
    out = []
    for line in lines[begin + 1 :]:
        if line.strip() == b"end":
            break
        try:
            out.append(a2b_uu(line))
        except BinasciiError:
            # The line has trailing junk: its first character says how many characters count.
            size = (((line[0] - 32) & 63) * 4 + 5) // 3
            with suppress(BinasciiError):
                out.append(a2b_uu(line[:size]))
    return b"".join(out)
