"""Decodes bytes to text, whatever the message claims about its charset. The rules are the same for bodies, encoded
words, raw header fields and file names (docs/decisions/0012 has the reasons).

1. Valid UTF-8 that is not all ASCII is UTF-8: hardly any other text is valid there. Only where there are so few
   characters that chance may have made them valid does the declared charset win, if its reading is clearly the
   better one.
2. A declared charset is kept through damage. What is cut or broken is U+FFFD, and only that: in a short text too,
   so long as more is sound than broken. UTF-8 that is damaged and declared as something else is still UTF-8.
3. Seven-bit text that switches by ISO 2022's escapes is ISO-2022-JP or its kin, whatever was declared, since ASCII
   has no such escapes.
4. A guess is made only where nothing is declared, or where the declared charset is impossible: more is broken in
   its reading than is sound.

labels: a charset's name to its decoder. readings, iso2022: bytes in a given charset. plausibility: which of two
readings looks more like text, and the guess.
"""

import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE, BOM_UTF32_BE, BOM_UTF32_LE

from tasks.mail.parse.charset.iso2022 import is_iso2022
from tasks.mail.parse.charset.labels import ASCII, EUC_JP, ISO_2022_CN, ISO_2022_JP, ISO_2022_KR, UTF_8, codec_for
from tasks.mail.parse.charset.plausibility import east_asian, guess_charset, oddity
from tasks.mail.parse.charset.readings import read

__all__ = ["charset_of", "codec_for", "decode", "guess_charset", "storable"]

_BOMS = (
    (BOM_UTF8, "utf-8-sig"),
    (BOM_UTF32_LE, "utf-32"),
    (BOM_UTF32_BE, "utf-32"),
    (BOM_UTF16_LE, "utf-16"),
    (BOM_UTF16_BE, "utf-16"),
)
_WIDE = frozenset({"utf-16", "utf_16_le", "utf_16_be", "utf-32", "utf_32_le", "utf_32_be"})
# A declared ASCII counts as no declaration if there are bytes beyond ASCII.
_AS_UTF_8 = frozenset({None, UTF_8, ASCII})
_EAST_ASIAN = frozenset({"gb18030", "big5hkscs", "cp932", "cp949", EUC_JP, "johab"})
# Seven-bit charsets, and the charset of their text if it has eight-bit bytes after all.
_SEVEN_BIT = {
    ISO_2022_JP: ("cp932", EUC_JP),
    ISO_2022_KR: ("cp949",),
    ISO_2022_CN: ("gb18030", "big5hkscs"),
    "hz": ("gb18030",),
    "utf-7": (),
}
_HZ = re.compile(rb"~\{(?:[!-w][!-~])+~\}")
_NOT_TEXT = re.compile(rb"[^\t\n\r -~]")
# More characters than this are not valid UTF-8 by chance.
_CHANCE = 8
_HIGH_BYTE = re.compile(rb"[\x80-\xff]")
_SAMPLE_BYTES = 256
_BROKEN = re.compile("[\ufffd\x80-\x9f]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def decode(data: bytes, charset: str | None = None, *, guess: bool = True) -> str:
    """The text that `data` means, free of NUL and of lone surrogates. Never raises.

    Without `guess`, which may take milliseconds, bytes of an unknown charset are read as windows-1252.
    """
    codec = codec_for(charset) if charset else None
    if codec in _AS_UTF_8 and b"\x1b" not in data and (text := _strict_utf8(data)) is not None:
        # The usual case, and UTF-8 holds no lone surrogates.
        text = text.removeprefix("\ufeff")
        return text.replace("\0", "") if "\0" in text else text
    text = _seven_bit(data, codec) if data.isascii() else _eight_bit(data, codec, guess)
    return storable(text.removeprefix("\ufeff"))


def charset_of(data: bytes, declared: str | None) -> str:
    """The charset of several pieces of text together, each of which may be too short to tell."""
    codec = codec_for(declared) if declared else None
    if declared and codec not in (None, UTF_8, ASCII):
        return declared
    if is_iso2022(data):
        return ISO_2022_JP
    # A U+FFFD that the sender wrote is no damage.
    if _strict_utf8(data) is not None or _is_utf8(data.decode("utf-8", "replace"), codec):
        return UTF_8
    return guess_charset(data) or "windows-1252"


def storable(text: str) -> str:
    """`text` as PostgreSQL's text and jsonb take it: NUL is dropped, a lone surrogate becomes U+FFFD."""
    if "\0" in text:
        text = text.replace("\0", "")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            text = _SURROGATE.sub("\ufffd", text)
    return text


def _seven_bit(data: bytes, codec: str | None) -> str:
    if codec == ISO_2022_KR or is_iso2022(data):
        return read(data, codec if codec in _SEVEN_BIT else ISO_2022_JP)
    if codec in _SEVEN_BIT or (codec in _WIDE and _NOT_TEXT.search(data)):
        return read(data, codec or ASCII)
    if codec == "gb18030" and _HZ.search(data):
        return read(data, "hz")
    # All other charsets read these bytes as ASCII does.
    return data.decode("ascii")


def _eight_bit(data: bytes, codec: str | None, guess: bool) -> str:
    for mark, marked in _BOMS:
        if data.startswith(mark):
            return data.decode(marked, "replace")
    if codec is None or codec in _AS_UTF_8:
        return _undeclared(data, codec, guess)
    utf8 = _strict_utf8(data)
    if utf8 is not None and "\ufffd" in utf8:
        # A U+FFFD that the sender wrote: its three bytes are no text in another charset.
        return utf8
    declared = _declared(data, codec)
    sample = _sample(data).decode("utf-8", "replace") if utf8 is None else utf8
    if _is_utf8(sample, codec) and not _by_chance(sample, declared, codec):
        return data.decode("utf-8", "replace") if utf8 is None else utf8
    if declared is None:
        return _guessed(data, guess)
    if not _BROKEN.search(declared):
        return declared
    sound, broken = _sound_and_broken(declared)
    if broken * 4 <= sound or (broken == 1 and sound):
        return declared
    return _less_odd(declared, _guessed(data, guess))


def _undeclared(data: bytes, codec: str | None, guess: bool) -> str:
    utf8 = data.decode("utf-8", "replace")
    if _is_utf8(utf8, codec):
        return utf8
    guessed = _guessed(data, guess)
    return _less_odd(utf8, guessed) if codec == UTF_8 else guessed


def _declared(data: bytes, codec: str) -> str | None:
    """The reading in the declared charset, or None where the bytes make no sense in it."""
    if codec not in _SEVEN_BIT:
        return read(data, codec)
    if is_iso2022(data):
        return read(data, ISO_2022_JP)
    readings = [read(data, eight_bit) for eight_bit in _SEVEN_BIT[codec]]
    return min(readings, key=lambda text: (text.count("\ufffd"), oddity(text)), default=None)


def _by_chance(utf8: str, declared: str | None, codec: str) -> bool:
    """Whether the text is so short that it may be valid UTF-8 by
    chance, and the declared charset gives a better reading."""
    if declared is None or _sound_and_broken(utf8)[0] > _CHANCE or _BROKEN.search(declared):
        return False
    odd, odd_declared = oddity(utf8), oddity(declared)
    if codec in _EAST_ASIAN and odd == odd_declared:
        return east_asian(declared) > 0 and not east_asian(utf8)
    return odd_declared < odd


def _less_odd(kept: str, other: str) -> str:
    """The second of two readings if it is better, else the first."""
    return other if oddity(other) < oddity(kept) else kept


def _guessed(data: bytes, guess: bool) -> str:
    if data.count(0) * 3 > len(data):
        return read(data, "utf-16")
    codec = guess_charset(data) if guess else None
    if codec is not None:
        return read(data, codec_for(codec) or codec)
    try:
        return data.decode("cp1252")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _strict_utf8(data: bytes) -> str | None:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def _is_utf8(text: str, codec: str | None) -> bool:
    """Whether so much of `text` is sound that it is damaged UTF-8, and not another charset read as UTF-8."""
    sound, broken = _sound_and_broken(text)
    return sound > 0 and sound >= (broken if codec == UTF_8 else 3 * broken)


def _sample(data: bytes) -> bytes:
    first = _HIGH_BYTE.search(data)
    return data[first.start() : first.start() + _SAMPLE_BYTES] if first else data


def _sound_and_broken(text: str) -> tuple[int, int]:
    """How many characters beyond ASCII are plausible text, and how many cannot be."""
    broken = len(_BROKEN.findall(text))
    return len(text) - len(text.encode("ascii", "ignore")) - broken, broken
