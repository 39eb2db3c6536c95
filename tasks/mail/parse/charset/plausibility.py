"""How plausible a decoded text is, and the charset that gives the most plausible text.

Two readings of the same bytes are compared by the number of characters that are out of place: a symbol attached to a
word, letters of two alphabets in one word, a capital after a small letter, a rare ideograph.
"""

import re
import unicodedata
from functools import lru_cache

from charset_normalizer import from_bytes

# charset-normalizer takes about a millisecond for each kilobyte and candidate, so it gets no more bytes than this.
_GUESS_BYTES = 2048
# Multi-byte charsets come first, and the first of equals wins: hardly any text in another charset is valid in these.
_GUESS_CANDIDATES = [
    "euc_jp", "cp949", "gb18030", "big5", "cp932",
    "cp1252", "cp1251", "koi8_u", "cp1250", "cp1253", "cp1254", "cp1255", "cp1256", "cp874",
]  # fmt: skip
_HIGH_BYTE = re.compile(rb"[\x80-\xff]")
_HIGH_CHARACTER = re.compile(r"[^\x00-\x7f]")
_SAMPLE = 200

# Half-width katakana are in no list of usual scripts: they are what Cyrillic looks like in code page 932.
_EAST_ASIAN = frozenset({"CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "HANGUL", "BOPOMOFO", "FULLWIDTH"})
_USUAL = frozenset(
    {"LATIN", "GREEK", "CYRILLIC", "ARMENIAN", "HEBREW", "ARABIC", "THAI", "GEORGIAN", "EAST ASIAN"}
    | {"DEVANAGARI", "BENGALI", "GURMUKHI", "GUJARATI", "TAMIL", "TELUGU", "KANNADA", "MALAYALAM", "SINHALA"}
)
# Symbols that are usual before a number or alone; attached to a word they are as odd as other symbols.
_USUAL_SYMBOLS = frozenset("€£¥§°©®™№•·¡¿¶")
# The lead bytes at which the ideographs of daily use begin and end in each national charset.
_DAILY = (("gb2312", 0xB0, 0xD7), ("big5", 0xA4, 0xC6), ("shift_jis", 0x88, 0x97))


def oddity(text: str) -> int:
    """How many characters are out of place, counted from the first
    character beyond ASCII, in a bounded part of the text."""
    first = _HIGH_CHARACTER.search(text)
    if first is None:
        return 0
    sample = text[max(0, first.start() - 1) : first.start() + _SAMPLE]
    return sum(_is_odd(char, before) for before, char in zip(" " + sample, sample, strict=False))


def east_asian(text: str) -> int:
    """How many characters of the text are of Chinese, Japanese or Korean script."""
    return sum(_script(char) in ("EAST ASIAN", "HALFWIDTH") for char in text)


def guess_charset(data: bytes) -> str | None:
    """The charset that text around the first byte above 127 looks most like."""
    first = _HIGH_BYTE.search(data)
    start = max(0, first.start() - _GUESS_BYTES // 8) if first else 0
    sample = data[start : start + _GUESS_BYTES]
    # A name with an accent or two resembles a few letters of any alphabet.
    if len(sample) < 100 and len(_HIGH_BYTE.findall(sample)) * 8 < len(sample):
        return None
    guesses = from_bytes(sample, cp_isolation=_GUESS_CANDIDATES)
    if not guesses:
        return None
    return min(
        guesses,
        key=lambda match: (
            oddity(str(match)),
            match.chaos,
            -match.coherence,
            _GUESS_CANDIDATES.index(match.encoding),
        ),
    ).encoding


def _is_odd(char: str, before: str) -> bool:
    if char.isascii() and before.isascii():
        return False
    category = unicodedata.category(char)
    if category[0] == "L":
        return _is_odd_letter(char, before)
    if char.isascii() or category[0] in "PZ":
        # Punctuation that begins a sentence or names a paragraph does not end a word.
        return before.isalpha() and char in _USUAL_SYMBOLS
    if category[0] == "M":
        return _script(char) not in ("COMBINING", _script(before))
    return before.isalpha() or char not in _USUAL_SYMBOLS


def _is_odd_letter(char: str, before: str) -> bool:
    script = _script(char)
    if script not in _USUAL or not _is_daily(char):
        return True
    return before.isalpha() and (_script(before) != script or (char.isupper() and before.islower()))


@lru_cache(maxsize=4096)
def _script(char: str) -> str:
    """The script of a letter or a mark, by the first word of its name; all of East Asia is one."""
    word = unicodedata.name(char, "").partition(" ")[0]
    return "EAST ASIAN" if word in _EAST_ASIAN else word


def _is_daily(char: str) -> bool:
    if "\uac00" <= char <= "\ud7a3":
        # Usual syllables are the 2,350 of KS X 1001, which take two bytes; Python writes any other in several.
        return len(char.encode("euc_kr", "ignore")) == 2
    if not "\u3400" <= char <= "\u9fff" and char < "\U00020000":
        return True
    return any(first <= (char.encode(codec, "ignore") or b"\0")[0] <= last for codec, first, last in _DAILY)
