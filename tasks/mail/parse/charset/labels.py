"""A charset's name, as found in a message, to the decoder that mail programs mean by it.

Names are those of WHATWG's Encoding standard (section 4.2), of IANA's registry with its aliases, of Windows' code
pages, and of Python. They are decoded as browsers decode them (same section): "iso-8859-1" is windows-1252, "gb2312"
is GB18030, "shift_jis" is Windows' code page 932.
"""

import re
from encodings.aliases import aliases
from functools import lru_cache

# Decoders that `readings` has and Python has not.
EUC_JP, ISO_2022_JP, ISO_2022_KR, ISO_2022_CN = "euc-jp", "iso-2022-jp", "iso-2022-kr", "iso-2022-cn"
UTF_8, ASCII = "utf-8", "ascii"

# Charsets that senders name, and what they really use: mostly a superset.
_SUPERSETS = {
    "iso8859_1": "cp1252",
    "latin_1": "cp1252",
    "iso8859_9": "cp1254",
    "iso8859_11": "cp874",
    "tis_620": "cp874",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_jp": EUC_JP,
    "iso2022_jp": ISO_2022_JP,
    "iso2022_jp_1": ISO_2022_JP,
    "iso2022_jp_2": ISO_2022_JP,
    "iso2022_jp_3": ISO_2022_JP,
    "iso2022_jp_2004": ISO_2022_JP,
    "iso2022_jp_ext": ISO_2022_JP,
    "iso2022_kr": ISO_2022_KR,
    "euc_kr": "cp949",
    "big5": "big5hkscs",
    "cp950": "big5hkscs",
    "utf_7": "utf-7",
    "utf_8": UTF_8,
    "utf_8_sig": UTF_8,
    "utf_16": "utf-16",
    "utf_32": "utf-32",
}
# Names that Python does not know, in lower case and without their punctuation.
_NAMES = {
    "ansi": "cp1252",
    "bosnian": "cp1250",
    "chinesebig5": "big5hkscs",
    "cnbig5": "big5hkscs",
    "cngb": "gb18030",
    "cngb12345": "gb18030",
    "cniso2022": ISO_2022_CN,
    "dos874": "cp874",
    "ebcdicus": "cp037",
    "eucjpms": EUC_JP,
    "eucjpopen": EUC_JP,
    "eucjpwin": EUC_JP,
    "eucpkdfmtjapanese": EUC_JP,
    "extendedunixcodepackedformatforjapanese": EUC_JP,
    "gb231280": "gb18030",
    "halfwidthkatakana": "cp932",
    "iso10646": "utf-16",
    "iso10646ucs2": "utf-16",
    "iso10646ucs4": "utf-32",
    "iso2022cn": ISO_2022_CN,
    "iso2022cnext": ISO_2022_CN,
    "iso2022jpms": ISO_2022_JP,
    "iso88596e": "iso8859_6",
    "iso88596i": "iso8859_6",
    "iso88598e": "iso8859_8",
    "iso88598i": "iso8859_8",
    "isoir149": "cp949",
    "isolatin9": "iso8859_15",
    "isolatin0": "iso8859_15",
    "jis": ISO_2022_JP,
    "jisencoding": ISO_2022_JP,
    "jisx0201": "cp932",
    "koi": "koi8_r",
    "koi8": "koi8_r",
    "koi8ru": "koi8_u",
    "ksc5601": "cp949",
    "ksc56011987": "cp949",
    "ksc56011989": "cp949",
    "latin0": "iso8859_15",
    "logical": "iso8859_8",
    "mac": "mac_roman",
    "macce": "mac_latin2",
    "maccentraleurroman": "mac_latin2",
    "maccentraleurope": "mac_latin2",
    "macukrainian": "mac_cyrillic",
    "mskanji": "cp932",
    "pc850multilingual": "cp850",
    "pc852": "cp852",
    "pc8codepage437": "cp437",
    "pcp852": "cp852",
    "pcp855": "cp855",
    "pc862latinhebrew": "cp862",
    "suneugreek": "iso8859_7",
    "tcvn": "cp1258",
    "thai": "cp874",
    "tis6202533": "cp874",
    "ucs2": "utf-16",
    "ucs4": "utf-32",
    "uhc": "cp949",
    "unicode": "utf-16",
    "unicode11": "utf-16",
    "unicode11utf7": "utf-7",
    "unicode11utf8": UTF_8,
    "unicode20utf7": "utf-7",
    "unicode20utf8": UTF_8,
    "unicodefeff": "utf-16",
    "unicodefffe": "utf_16_be",
    "utf8mb3": UTF_8,
    "utf8mb4": UTF_8,
    "visual": "iso8859_8",
    "wincyrillic": "cp1251",
    "windows31j": "cp932",
    "xbig5": "big5hkscs",
}
# Windows' numbers of charsets that have another name elsewhere.
_CODE_PAGES = {
    "367": ASCII, "819": "cp1252", "912": "iso8859_2", "915": "iso8859_5", "923": "iso8859_15", "936": "gb18030",
    "943": "cp932", "970": "cp949", "1200": "utf-16", "1201": "utf_16_be", "1361": "johab", "1381": "gb18030",
    "1383": "gb18030", "1386": "gb18030", "10000": "mac_roman", "10001": "cp932", "10006": "mac_greek",
    "10007": "mac_cyrillic", "10029": "mac_latin2", "10079": "mac_iceland", "10081": "mac_turkish", "12000": "utf-32",
    "12001": "utf_32_be", "20127": ASCII, "20866": "koi8_r", "20932": EUC_JP, "20936": "gb18030", "20949": "cp949",
    "21866": "koi8_u", "28591": "cp1252", "28592": "iso8859_2", "28593": "iso8859_3", "28594": "iso8859_4",
    "28595": "iso8859_5", "28596": "iso8859_6", "28597": "iso8859_7", "28598": "iso8859_8", "28599": "cp1254",
    "28600": "iso8859_10", "28603": "iso8859_13", "28604": "iso8859_14", "28605": "iso8859_15", "28606": "iso8859_16",
    "33722": EUC_JP, "38598": "iso8859_8", "50220": ISO_2022_JP, "50221": ISO_2022_JP, "50222": ISO_2022_JP,
    "50225": ISO_2022_KR, "50227": ISO_2022_CN, "50229": ISO_2022_CN, "51932": EUC_JP, "51936": "gb18030",
    "51949": "cp949", "51950": "big5hkscs", "52936": "hz", "54936": "gb18030", "65000": "utf-7", "65001": UTF_8,
}  # fmt: skip
_NUMBERED = re.compile(r"(?:cp|cswindows|win(?:dows)?|ibm|ms|oem|codepage)?0?(\d{3,5})")
_PUNCTUATION = re.compile(r"[^a-z0-9]")
# A comment, or whatever else is not part of a name.
_END_OF_NAME = re.compile(r"[(;,*].*", re.DOTALL)
_MAX_NAME_LENGTH = 80
# Python "codecs" that are no charsets, some of them quadratic or worse than text.
_NOT_CHARSETS = frozenset(
    {"idna", "punycode", "unicode_escape", "raw_unicode_escape", "undefined", "mbcs", "oem", "rot_13"}
    | {"base64_codec", "bz2_codec", "hex_codec", "quopri_codec", "uu_codec", "zlib_codec"}
)
# Python's own table, with keys like those of _NAMES. An unknown name is never passed to codecs.lookup(), which would
# keep every name in memory.
_PYTHON_NAMES = {
    _PUNCTUATION.sub("", spelling): codec
    for codec in sorted({*aliases.values(), "cp720", "cp874", "cp875", "cp1006", "koi8_t", "koi8_u", "mac_croatian"})
    for spelling in (codec, *(alias for alias, target in aliases.items() if target == codec))
    if codec not in _NOT_CHARSETS
}


def codec_for(name: str) -> str | None:
    """The decoder for a charset's name, or None for an unknown name. A comment is no part of the name."""
    return _codec_for(name[:_MAX_NAME_LENGTH])


@lru_cache(maxsize=512)
def _codec_for(name: str) -> str | None:
    name = _END_OF_NAME.sub("", name.lower()).removeprefix("charset=")
    # "windows 1251" is a name with a space in it, and "utf-8 unicode" a name with a word after it.
    return _named(name) or _named(name.strip(" \t\"'").partition(" ")[0])


def _named(name: str) -> str | None:
    key = _PUNCTUATION.sub("", name)
    # Unregistered names begin with "x-", IANA's aliases for programs with "cs".
    for spelling in (key, key.removeprefix("x"), key.removeprefix("xx"), key.removeprefix("cs")):
        if codec := _NAMES.get(spelling) or _PYTHON_NAMES.get(spelling) or _numbered(spelling):
            return _SUPERSETS.get(codec, codec)
    return None


def _numbered(key: str) -> str | None:
    match = _NUMBERED.fullmatch(key)
    return (_CODE_PAGES.get(match[1]) or _PYTHON_NAMES.get(f"cp{match[1]}")) if match else None
