"""Decodes bytes in a given charset as browsers do: bytes that cannot be decoded become U+FFFD, and the text goes on.

Where Python's codecs differ from WHATWG's Encoding standard, the standard is followed. Bytes that a windows charset
does not define become U+FFFD and not control characters, which no text holds.
"""

import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE

from tasks.mail.parse.charset.iso2022 import decode_euc_jp, decode_iso2022
from tasks.mail.parse.charset.labels import EUC_JP, ISO_2022_CN, ISO_2022_JP, ISO_2022_KR

_OWN = {
    EUC_JP: decode_euc_jp,
    ISO_2022_JP: decode_iso2022,
    ISO_2022_KR: decode_iso2022,
    ISO_2022_CN: decode_iso2022,
}
# Windows' charset for the same alphabet: nobody writes the control characters that ISO 8859 has from 80 to 9F.
_WINDOWS = {
    "iso8859_2": "cp1250",
    "iso8859_4": "cp1257",
    "iso8859_5": "cp1251",
    "iso8859_6": "cp1256",
    "iso8859_7": "cp1253",
    "iso8859_8": "cp1255",
    "iso8859_13": "cp1257",
    "iso8859_15": "cp1252",
}
_C1 = re.compile(rb"[\x80-\x9f]")
# Characters that Python returns for bytes which are undefined in Shift_JIS.
_NOT_SHIFT_JIS = re.compile("[\x80\uf8f0-\uf8f3]")
# A euro sign in code page 936, which GB18030 has elsewhere.
_GB_CHARACTER = re.compile(rb"[\x81-\xfe][0-9][\x81-\xfe][0-9]|[\x81-\xfe][@-~\x80-\xfe]|\x80")
_GB_EURO = "€".encode("gb18030")
_GB_BROWSERS = str.maketrans("\ue5e5\ue7c7", "\u3000\u1e3f")
# Symbols of Big5's first two rows, which are the same in Taiwan and in Hong Kong but for Python.
_BIG5_BROWSERS = str.maketrans(
    "\u2022\uff64\u203e\u223c\u2641\u2609\uff0f\uff3c\u00a5\u00a2\u00a3",
    "\u2027\ufe51\u00af\uff5e\u2295\u2299\u2215\ufe68\uffe5\uffe0\uffe1",
)


def read(data: bytes, codec: str) -> str:
    """`data` in the charset of `codec`, a name that `codec_for` gave. Never raises."""
    if own := _OWN.get(codec):
        return own(data)
    if codec == "cp932":
        return _NOT_SHIFT_JIS.sub("\ufffd", data.decode(codec, "replace"))
    if codec == "gb18030":
        return _gb18030(data)
    if codec == "big5hkscs":
        return _big5(data)
    if codec in ("utf-16", "utf-32"):
        codec = _wide(data, codec)
    elif codec in _WINDOWS and _C1.search(data):
        codec = _WINDOWS[codec]
    return data.decode(codec, "replace")


def _wide(data: bytes, codec: str) -> str:
    """UTF-16 and UTF-32 without a mark: RFC 2781 section 4.3 says big-endian, Windows writes little-endian."""
    if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE, b"\0\0\xfe\xff")):
        return codec
    return f"{codec}-be" if data[:1] == b"\0" else f"{codec}-le"


def _gb18030(data: bytes) -> str:
    if b"\x80" in data:
        data = _GB_CHARACTER.sub(lambda found: _GB_EURO if found[0] == b"\x80" else found[0], data)
    text = data.decode("gb18030", "replace")
    return text.translate(_GB_BROWSERS) if "\ue5e5" in text or "\ue7c7" in text else text


def _big5(data: bytes) -> str:
    try:
        text = data.decode("big5hkscs")
    except UnicodeDecodeError:
        try:
            # Taiwan's code page has a euro sign.
            return data.decode("cp950")
        except UnicodeDecodeError:
            text = data.decode("big5hkscs", "replace")
    return text.translate(_BIG5_BROWSERS)
