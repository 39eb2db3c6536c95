"""Bytes to text, whatever the message claims about its charset.

A declared charset is tried as mail programs mean it (WHATWG Encoding's supersets: "iso-8859-1" is
windows-1252, "gb2312" is gb18030); what it cannot decode is tried as UTF-8, then guessed.
"""

import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE, BOM_UTF32_BE, BOM_UTF32_LE
from encodings.aliases import aliases
from functools import lru_cache

from charset_normalizer import from_bytes

# What senders write, read as what they use: mostly a superset of the charset named.
_SUPERSETS = {
    "iso8859_1": "cp1252",
    "latin_1": "cp1252",
    "iso8859_9": "cp1254",
    "iso8859_11": "cp874",
    "tis_620": "cp874",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "iso2022_jp": "iso2022_jp_ext",
    "euc_kr": "cp949",
    "big5": "big5hkscs",
    "utf_8": "utf-8",
    "utf_8_sig": "utf-8",
}
# Names met in mail that Python does not know, without their punctuation.
_NAMES = {
    "unicode11utf7": "utf-7",
    "unicode11utf8": "utf-8",
    "utf8mb4": "utf-8",
    "unicode": "utf-16",
    "ucs2": "utf-16",
    "iso10646ucs2": "utf-16",
    "iso88598i": "iso8859_8",
    "iso88598e": "iso8859_8",
    "iso88596i": "iso8859_6",
    "dos874": "cp874",
    "ksc56011987": "cp949",
    "ksc5601": "cp949",
    "ansi": "cp1252",
    "xsjis": "cp932",
    "xeucjp": "euc_jp",
    "xgbk": "gb18030",
    "xmacroman": "mac_roman",
    "xmaccyrillic": "mac_cyrillic",
    "xxbig5": "big5hkscs",
    "koi": "koi8_r",
}
_NUMBERED = re.compile(r"(?:x?cp|x?win(?:dows)?|x?ibm|ms|oem)(\d{3,4})")
_PUNCTUATION = re.compile(r"[^a-z0-9]")
# Python "codecs" that are no charsets, some of them quadratic or worse than text.
_NOT_CHARSETS = frozenset(
    {"idna", "punycode", "unicode_escape", "raw_unicode_escape", "undefined", "mbcs", "oem", "rot_13"}
    | {"base64_codec", "bz2_codec", "hex_codec", "quopri_codec", "uu_codec", "zlib_codec"}
)
# Python's own table, keyed like _NAMES: an unknown name is never passed to codecs.lookup(), which keeps
# every name it was ever asked for.
_PYTHON_NAMES = {
    _PUNCTUATION.sub("", spelling): codec
    for codec in sorted({*aliases.values(), "cp720", "cp874", "cp875", "cp1006", "koi8_t", "koi8_u", "mac_croatian"})
    for spelling in (codec, *(alias for alias, target in aliases.items() if target == codec))
    if codec not in _NOT_CHARSETS
}

_BOMS = (
    (BOM_UTF8, "utf-8-sig"),
    (BOM_UTF32_LE, "utf-32"),
    (BOM_UTF32_BE, "utf-32"),
    (BOM_UTF16_LE, "utf-16"),
    (BOM_UTF16_BE, "utf-16"),
)
# charset-normalizer takes about a millisecond a kilobyte and a candidate.
_GUESS_BYTES = 2048
# Of equals the first wins: hardly any text in another charset is valid in a multi-byte one.
_GUESS_CANDIDATES = [
    "euc_jp", "cp949", "gb18030", "big5", "cp932",
    "cp1252", "cp1251", "koi8_r", "cp1250", "cp1253", "cp1254", "cp1255", "cp1256", "cp874",
]  # fmt: skip
_NOT_ASCII = re.compile(rb"[\x80-\xff]")
_SURROGATE = re.compile("[\ud800-\udfff]")


@lru_cache(maxsize=512)
def codec_for(name: str) -> str | None:
    """The Python codec for a charset name as found in a message, or None where nobody knows it."""
    if len(name) > 40:
        return None
    key = _PUNCTUATION.sub("", name.lower())
    if codec := _NAMES.get(key):
        return codec
    if numbered := _NUMBERED.fullmatch(key):
        key = f"cp{numbered[1]}"
    codec = _PYTHON_NAMES.get(key) or _PYTHON_NAMES.get(key.removeprefix("x"))
    return _SUPERSETS.get(codec, codec) if codec else None


def decode(data: bytes, charset: str | None = None, *, guess: bool = True) -> str:
    """The text that `data` means, free of NUL and of lone surrogates. Never raises.

    Without `guess`, which takes up to milliseconds, what nothing explains is read as windows-1252.
    """
    codec = codec_for(charset) if charset else None
    if codec is None or codec == "utf-8":
        try:
            text = data.decode()
        except UnicodeDecodeError:
            text = _decode_damaged(data, codec, guess)
        else:
            # The usual case, and UTF-8 holds no lone surrogates.
            return text.replace("\0", "").removeprefix("\ufeff")
    else:
        text = _decode_declared(data, codec, guess)
    if text[:1] == "\ufeff":
        text = text[1:]
    return storable(text)


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


def _decode_declared(data: bytes, codec: str, guess: bool) -> str:
    if codec in ("utf-16", "utf_16") and data[:2] not in (BOM_UTF16_LE, BOM_UTF16_BE):
        # RFC 2781 section 4.3 says big-endian without a mark; Windows writes little-endian.
        codec = "utf-16-be" if data[:1] == b"\0" else "utf-16-le"
    try:
        if codec == "cp1252" and _is_utf8(data):
            return data.decode()
        return data.decode(codec)
    except (UnicodeError, LookupError):
        return _decode_damaged(data, codec, guess)


def _is_utf8(data: bytes) -> bool:
    # Text in windows-1252 that happens to be valid UTF-8 ("Ã©") is far rarer than UTF-8 declared wrongly.
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _decode_damaged(data: bytes, codec: str | None, guess: bool) -> str:
    """What neither the declared charset nor its absence explains."""
    for bom, marked in _BOMS:
        if data.startswith(bom):
            return data.decode(marked, "replace")
    if codec is not None and codec != "ascii":
        text = data.decode(codec, "replace")
        # A few broken bytes, or a character cut in two: the declared charset is right nevertheless.
        if text.count("\ufffd") * 50 <= len(text):
            return text
    if codec != "utf-8" and _is_utf8(data):
        return data.decode()
    if data.count(0) * 3 > len(data):
        return data.decode("utf-16-be" if data[:1] == b"\0" else "utf-16-le", "replace")
    codec = guess_charset(data) if guess else None
    return data.decode(codec, "replace") if codec else _western(data)


def guess_charset(data: bytes) -> str | None:
    """The charset that text around the first byte above 127 looks most like."""
    first = _NOT_ASCII.search(data)
    start = max(0, first.start() - _GUESS_BYTES // 8) if first else 0
    sample = data[start : start + _GUESS_BYTES]
    # A name with an accent or two resembles a few letters of any alphabet.
    if len(sample) < 100 and len(_NOT_ASCII.findall(sample)) * 8 < len(sample):
        return None
    guesses = from_bytes(sample, cp_isolation=_GUESS_CANDIDATES)
    if not guesses:
        return None
    return min(
        guesses, key=lambda match: (match.chaos, -match.coherence, _GUESS_CANDIDATES.index(match.encoding))
    ).encoding


def _western(data: bytes) -> str:
    try:
        return data.decode("cp1252")
    except UnicodeDecodeError:
        return data.decode("latin-1")
