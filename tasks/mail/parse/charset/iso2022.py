"""Japanese text in ISO-2022-JP and EUC-JP as browsers and mail programs read it, and the kin of ISO-2022-JP.

Python's codecs know these charsets as their standards define them; mail uses the rows that Windows added: NEC's row
13 (circled digits, Roman numerals, ㈱, №) and the characters that NEC selected from IBM's (CP50221, CP51932, and
WHATWG's Encoding standard, sections 12.1 and 12.2). Python's code page 932 holds all of them, each at the place that
row and cell have in Shift_JIS, so it serves as the table. What no table holds, such as the pictures of mobile phones
outside these rows, is U+FFFD for the two bytes, and the text goes on.
"""

import re
from functools import lru_cache

from tasks.mail.parse.charset.labels import EUC_JP

# A character set of ISO 2022: the codec that decodes its bytes with the high bit set, and the bytes that this codec
# needs before each character.
_Set = tuple[str, bytes]
_JIS, _KATAKANA, _ASCII, _ROMAN = (EUC_JP, b""), ("cp932", b""), ("ascii", b""), ("roman", b"")
_UNKNOWN = ("unknown", b"")
_SETS: dict[bytes, _Set] = {
    b"(B": _ASCII,
    b"(J": _ROMAN,
    b"(H": _ROMAN,
    b"(I": _KATAKANA,
    b"$@": _JIS,
    b"$B": _JIS,
    b"$(@": _JIS,
    b"$(B": _JIS,
    b"$(D": (EUC_JP, b"\x8f"),
    b"$(O": ("euc_jisx0213", b""),
    b"$(P": ("euc_jisx0213", b"\x8f"),
    b"$(Q": ("euc_jis_2004", b""),
    b"$A": ("gb18030", b""),
    b"$(C": ("cp949", b""),
    b"$)A": ("gb18030", b""),
    b"$)C": ("cp949", b""),
}
_SINGLE_BYTE = frozenset({_ASCII, _ROMAN, _KATAKANA})
_ESCAPE = re.compile(rb"\x1b(\$[()*+]?[@-~]|\([@-~])|[\x0e\x0f]")
_SHIFT_OUT = b"\x0e"
# Two bytes a character in Japanese, Chinese or Korean.
_DESIGNATION = re.compile(rb"\x1b\$(?:[@AB]|\([BCDOPQ@]|\)[AC])|\x1b\(I")
_HIGH_BIT = bytes(byte | 0x80 if 0x21 <= byte <= 0x7E else byte for byte in range(256))
_PAIR = re.compile(rb"[\xa1-\xfe]{2}")
_UNKNOWN_PAIR = re.compile(r"[\x80-\xff]{1,2}")
_EUC_RUN = re.compile(rb"(?:[\xa1-\xfe]{2})+|(?:\x8e[\xa1-\xdf])+|(?:\x8f[\xa1-\xfe]{2})+|[\x80-\xff]")


def is_iso2022(data: bytes) -> bool:
    """Whether seven-bit `data` switches to a character set with two bytes a character, which only ISO 2022 does."""
    return b"\x1b" in data and _DESIGNATION.search(data) is not None


def decode_iso2022(data: bytes) -> str:
    """ISO-2022-JP to -JP-2004, -KR and -CN (RFC 1468, RFC 1554, RFC 1557, RFC 1922), whichever it is. Never raises.

    Bytes above 127 between the escapes are read as half-width
    katakana or Shift_JIS, which Japanese senders put there.
    """
    out: list[str] = []
    g0, g1, shifted = _ASCII, _KATAKANA, False
    position = 0
    for match in _ESCAPE.finditer(data):
        before = g1 if shifted else g0
        if match[1] is None:
            shifted = match[0] == _SHIFT_OUT
        elif match[1][1:2] == b")":
            g1 = _SETS.get(match[1], _UNKNOWN)
        else:
            g0, shifted = _SETS.get(match[1], _UNKNOWN if match[1].startswith(b"$") else _ASCII), False
        after = g1 if shifted else g0
        out.append(_lines(data[position : match.start()], before, goes_on=after in _SINGLE_BYTE))
        position = match.end()
    out.append(_lines(data[position:], g1 if shifted else g0, goes_on=False))
    return "".join(out)


def decode_euc_jp(data: bytes) -> str:
    """EUC-JP with Windows' rows (CP51932, eucJP-ms) and JIS X 0212. Never raises."""
    out: list[str] = []
    position = 0
    for match in _EUC_RUN.finditer(data):
        out.append(data[position : match.start()].decode("ascii"))
        out.append(_euc_run(match[0]))
        position = match.end()
    out.append(data[position:].decode("ascii"))
    return "".join(out)


def _lines(data: bytes, charset: _Set, *, goes_on: bool) -> str:
    """The text between two switches.

    A line must end in ASCII (RFC 1468), so after a forgotten escape only the rest
    of the line is misread. But if the switch back to ASCII follows after the line
    end, some program broke a line in two, and the character set `goes_on`.
    """
    if charset in _SINGLE_BYTE or goes_on or b"\n" not in data:
        return _text(data, charset)
    line, rest = data.split(b"\n", 1)
    return _text(line, charset) + "\n" + _text(rest, _ASCII)


def _text(data: bytes, charset: _Set) -> str:
    codec, prefix = charset
    if codec == "ascii":
        return data.decode("ascii" if data.isascii() else "cp932", "replace")
    if codec == "roman":
        return data.decode("cp932", "replace").translate({0x5C: "¥", 0x7E: "‾"})
    data = data.translate(_HIGH_BIT)
    if codec == "unknown":
        return _UNKNOWN_PAIR.sub("\ufffd", data.decode("latin-1"))
    if prefix:
        data = _PAIR.sub(lambda pair: prefix + pair[0], data)
    return decode_euc_jp(data) if codec == EUC_JP else data.decode(codec, "replace")


def _euc_run(run: bytes) -> str:
    if len(run) == 1:
        return "\ufffd"
    if run[0] == 0x8E:
        return run[1::2].decode("cp932")
    if run[0] == 0x8F:
        return "".join(_supplementary(run[place : place + 3]) for place in range(0, len(run), 3))
    table = _rows()
    return "".join(table[94 * row + cell - 95 * 0xA1] for row, cell in zip(run[::2], run[1::2], strict=True))


def _supplementary(character: bytes) -> str:
    """A character of JIS X 0212, whose tilde Windows has as a full-width one."""
    try:
        return character.decode("euc_jp").replace("~", "\uff5e")
    except UnicodeDecodeError:
        return "\ufffd"


@lru_cache(maxsize=1)
def _rows() -> str:
    """The characters of the 94 rows of JIS X 0208 with those of Windows, 94 to a row."""
    return "".join(_character(row, cell) for row in range(94) for cell in range(94))


def _character(row: int, cell: int) -> str:
    """The character at row and cell, counted from 0, by way of Shift_JIS: two rows to a lead byte."""
    lead = row // 2 + (0x81 if row < 62 else 0xC1)
    trail = cell + 0x9F if row % 2 else cell + (0x40 if cell < 63 else 0x41)
    try:
        return bytes((lead, trail)).decode("cp932")
    except UnicodeDecodeError:
        return "\ufffd"
