"""Finds secrets in a text, in any form in which they may be
repeated: escaped, encoded, in another case, broken into lines.

The text is decoded in all the ways in which programs encode one text within another, also
several times, and a secret is looked for in each reading. So a secret is found in URL encoding
(RFC 3986), base64 and hex at any alignment (RFC 4648), quoted-printable (RFC 2045 section
6.7), HTML and JSON, in the quoting of Python and IMAP, and in encodings of these encodings.
"""

import binascii
import html
import quopri
import re
import unicodedata
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import unquote_to_bytes

# A part of a secret (or of an encoded secret) with this many characters is no coincidence.
_TELLING_LENGTH = 12
# A shorter secret may be a part of an ordinary word, so it counts only as a whole word.
_SHORT = 8
# If a secret loses its characters beyond ASCII on the way, a rest of this length still reveals it.
_MIN_ASCII = 6
# How many encodings within each other are decoded, and how many readings at most, so that this takes little time.
_DEPTH = 3
_MAX_READINGS = 60

# White space, and characters that stand for white space or for nothing.
_LOST = re.compile(r"[\s\\+]+")
# The end of a line, and the codes that begin the next line of an SMTP reply (RFC 5321 section 4.2.1, RFC 2034).
_LINE_END = re.compile(r"[ \t]*[\r\n]+[ \t]*(?:[2-5]\d\d[ -])?")
# The soft line break of quoted-printable, also where lines were joined.
_SOFT_LINE_END = re.compile(r"=\s+")
_CODES = re.compile(r"\s+(?:[2-5]\d\d[ -])?[245]\.\d{1,3}\.\d{1,3}\s")
_ESCAPE = re.compile(
    r"(?P<bytes>(?:\\x[0-9a-f]{2}|\\[0-7]{3})+)"
    r"|\\u(?P<code>[0-9a-f]{4})|\\u\{(?P<braces>[0-9a-f]{1,6})\}|\\U(?P<long>[0-9a-f]{8})|\\(?P<other>.)",
    re.IGNORECASE | re.DOTALL,
)
_CONTROLS = {"n": "\n", "r": "\r", "t": "\t"}
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{6,}")
_URL_SAFE = str.maketrans("-_", "+/")
_TEXT = re.compile(rb"[\x20-\x7e\xa0-\xff]{4}")
_HEX = re.compile(r"(?:[0-9a-f]{2}[\s:,-]?){4,}", re.IGNORECASE)


@dataclass(frozen=True)
class Known:
    """Secrets to look for. `public` are texts, such as host names,
    that may be shown although a secret is a part of them."""

    secrets: tuple[str, ...] = ()
    public: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<{len(self.secrets)} secrets>"

    def are_told_by(self, text: str, *, short: bool = True) -> bool:
        """Whether the text holds a secret, or a revealing part of a secret. Without `short`, short secrets are left
        out, which may be ordinary words."""
        if not self._pieces and not self._wholes and not (short and self._words):
            return False
        for name in self._unrelated:
            text = text.replace(name, " ")
        return any(self._are_in(reading, short=short) for reading in _readings(text))

    def _are_in(self, reading: str, *, short: bool) -> bool:
        bare = _bare(reading)
        if any(whole in bare for whole in self._wholes):
            return True
        ends = range(_TELLING_LENGTH, len(bare) + 1)
        if not self._pieces.isdisjoint(bare[end - _TELLING_LENGTH : end] for end in ends):
            return True
        return bool(short and self._words and self._words.search(_plain(reading)))

    @cached_property
    def _forms(self) -> tuple[str, ...]:
        plain = {_bare(secret) for secret in self.secrets}
        ascii_only = {"".join(filter(str.isascii, form)) for form in plain}
        # Each character beyond ASCII may have become one or several other characters.
        plain |= {form for form in ascii_only if len(form) >= _MIN_ASCII}
        # Also look for base64 whose case was changed, which cannot be decoded any more.
        changed = {form for secret in self.secrets for form in _in_base64(secret) if len(form) >= _TELLING_LENGTH}
        return tuple(plain | changed)

    @cached_property
    def _pieces(self) -> frozenset[str]:
        return frozenset(
            form[end - _TELLING_LENGTH : end] for form in self._forms for end in range(_TELLING_LENGTH, len(form) + 1)
        )

    @cached_property
    def _wholes(self) -> tuple[str, ...]:
        return tuple(form for form in self._forms if _SHORT <= len(form) < _TELLING_LENGTH)

    @cached_property
    def _words(self) -> re.Pattern[str] | None:
        short = {_plain(secret).strip() for secret in self.secrets if len(_bare(secret)) < _SHORT} - {""}
        words = "|".join(map(re.escape, short))
        return re.compile(rf"(?<![^\W_])(?:{words})(?![^\W_])") if words else None

    @cached_property
    def _unrelated(self) -> tuple[str, ...]:
        secrets = {_bare(secret) for secret in self.secrets}
        return tuple(name for name in self.public if name and _bare(name) not in secrets)


def _bare(text: str) -> str:
    """The text in one case, and without characters that get lost or added on the way."""
    return _LOST.sub("", _plain(text))


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold().replace("+", " ")


def _in_base64(secret: str) -> Iterator[str]:
    """For each alignment, the part of the secret's base64 that does not depend on the text around it."""
    data = secret.encode("utf-8", "replace")
    for before in range(3):
        first, last = -(-before * 8 // 6), (before + len(data)) * 8 // 6
        yield _bare(b64encode(b"\0" * before + data).decode()[first:last])


def _readings(text: str) -> Iterator[str]:
    """All readings of the text, first the text itself."""
    seen = {text}
    level = [text]
    for depth in range(_DEPTH + 1):
        yield from level
        if depth == _DEPTH or len(seen) >= _MAX_READINGS:
            return
        found = dict.fromkeys(reading for one in level for read in _WAYS for reading in read(one))
        level = [reading for reading in found if reading and reading not in seen]
        seen.update(level)


def _joined(text: str) -> Iterator[str]:
    if "\n" in text or "\r" in text:
        yield _LINE_END.sub("", text)
    yield _CODES.sub("", text)


def _from_url(text: str) -> Iterator[str]:
    if "%" in text:
        yield from _decoded(unquote_to_bytes(text))


def _from_html(text: str) -> Iterator[str]:
    if "&" in text:
        yield html.unescape(text)


def _from_escapes(text: str) -> Iterator[str]:
    if "\\" in text:
        halves = _ESCAPE.sub(_unescaped, text)
        yield halves.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _unescaped(match: re.Match[str]) -> str:
    if escaped := match["bytes"]:
        numbers = re.findall(r"\\(?:x([0-9a-f]{2})|([0-7]{3}))", escaped, re.IGNORECASE)
        data = bytes(int(in_hex, 16) if in_hex else int(octal, 8) & 0xFF for in_hex, octal in numbers)
        return next(_decoded(data))
    if other := match["other"]:
        return _CONTROLS.get(other, other)
    code = int(match["code"] or match["braces"] or match["long"], 16)
    return chr(code) if code <= 0x10FFFF else ""


def _from_quoted_printable(text: str) -> Iterator[str]:
    if "=" in text:
        whole = _SOFT_LINE_END.sub("", text)
        yield from _decoded(quopri.decodestring(whole.encode("utf-8", "replace"), header="=?" in text))


def _from_base64(text: str) -> Iterator[str]:
    for source in dict.fromkeys((text, "".join(text.split()))):
        words = [word.translate(_URL_SAFE) for word in _BASE64.findall(source)]
        yield _readable(_base64_decoded(word[start:]) for word in words for start in range(4))


def _base64_decoded(word: str) -> bytes:
    usable = word[:-1] if len(word) % 4 == 1 else word
    return binascii.a2b_base64(usable + "=" * (-len(usable) % 4))


def _from_hex(text: str) -> Iterator[str]:
    digits = [re.sub(r"[\s:,-]", "", found) for found in _HEX.findall(text)]
    pieces = [word[start:] for word in digits for start in range(2)]
    yield _readable(bytes.fromhex(piece[: len(piece) // 2 * 2]) for piece in pieces)


def _readable(decoded: Iterable[bytes]) -> str:
    """The decoded pieces that are text. Ordinary words are valid base64 too, but of bytes that are no text."""
    return "\0".join(data.decode("utf-8", "replace") for data in decoded if _TEXT.search(data))


def _from_wrong_charset(text: str) -> Iterator[str]:
    if not text.isascii():
        for charset in ("latin-1", "cp1252"):
            yield text.encode(charset, "ignore").decode("utf-8", "ignore")


def _decoded(data: bytes) -> Iterator[str]:
    """The bytes as UTF-8, and as Latin-1, which takes any bytes."""
    try:
        yield data.decode()
    except UnicodeDecodeError:
        yield data.decode("latin-1")


_WAYS: tuple[Callable[[str], Iterator[str]], ...] = (
    _joined,
    _from_url,
    _from_html,
    _from_escapes,
    _from_quoted_printable,
    _from_base64,
    _from_hex,
    _from_wrong_charset,
)
