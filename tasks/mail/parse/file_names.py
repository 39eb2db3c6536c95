"""Names of files, as anybody may have written them, made safe to show and to store.

Letters of any script, emoji and combining characters stay. But a name must not lead to another folder, hide or
reverse a part of itself (with U+202E in it, `invoice.gpj.exe` is shown as `invoice.exe.jpg`), name a device of
Windows, or be too long for a file system.
"""

import re

from tasks.mail.parse.charset import storable

MAX_NAME_LENGTH = 255  # bytes of UTF-8, as the common file systems have it
_MAX_EXTENSION_LENGTH = 16
_SEPARATORS = re.compile(r"[/\\]|^[A-Za-z]:")
# Control characters, and characters of category Zl and Zp, which end a line.
_CONTROLS = r"\x00-\x1f\x7f-\x9f\u2028\u2029"
# Characters that count as visible, and whose shape is empty: an empty pattern of Braille, an empty head of a note, a
# Khitan filler, two empty hieroglyphs.
_EMPTY = "\u2800\U0001d159\U00016fe4\U00013441\U00013442"
# What becomes one blank. Runs of blanks would push the rest of the name out of sight.
_BLANK = re.compile(rf"[\s{_CONTROLS}{_EMPTY}]{{4,}}|[{_CONTROLS}]+|[{_EMPTY}]")
# Arrows, symbols and pictographs, from which emoji are made.
_PICTURES = (
    "\u00a9\u00ae\u203c\u2049\u2122\u2139\u2190-\u27bf\u2900-\u297f\u2b00-\u2bff\u3030\u303d\u3297\u3299"
    "\U0001f000-\U0001faff"
)
# A black flag and the tags GBENG, GBSCT or GBWLS: the only such flags in emoji-sequences.txt (UTS 51).
_FLAG = (
    "\U0001f3f4\U000e0067\U000e0062"
    "(?:\U000e0065\U000e006e\U000e0067|\U000e0073\U000e0063\U000e0074|\U000e0077\U000e006c\U000e0073)\U000e007f"
)
# Where invisible characters stay because an emoji needs them: tags in a flag, U+FE0F after a picture or in a keycap.
_OF_EMOJI = rf"{_FLAG}|[{_PICTURES}]\ufe0f|[0-9#*]\ufe0f(?=\u20e3)"
# Characters that are shown as nothing, or that turn the text: the property Default_Ignorable_Code_Point
# (DerivedCoreProperties.txt of Unicode) without the two joiners, and the rest of category Cf (annotations, controls
# of hieroglyphs) without the signs that stand over Arabic, Syriac and Kaithi numbers, which are seen. All variation
# selectors are among them: the letter before a dropped selector is shown in its usual shape.
_UNSEEN = re.compile(
    rf"(?P<emoji>{_OF_EMOJI})|"
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U00013430-\U00013440\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff]"
)
# The joiners U+200C and U+200D stay between two letters of the scripts from Arabic to Myanmar, from Khmer to the
# Vedic signs, and of their relatives on other planes, which are written with joiners, and between two pictures.
_JOINED = (
    f"\u0600-\u109f\u1780-\u18af\u1900-\u1cff\ua800-\uabff\U00010a00-\U00011fff\U0001e900-\U0001e95f\ufe0f{_PICTURES}"
)
_JOINERS = re.compile(rf"(?<![{_JOINED}])[\u200c\u200d]+|[\u200c\u200d](?![{_JOINED}])")
# Windows drops dots and blanks at the end of a name. A match begins only where such a run begins: tried from each
# character of a long run in the middle of a name, the search would take the square of the length.
_ENDS = re.compile(r"(?<![\s.])[\s.]+$|^\s+")
_DEVICE = re.compile(r"(?:con|prn|aux|nul|conin\$|conout\$|clock\$|(?:com|lpt)[0-9¹²³])[\s]*(?=\.|$)", re.IGNORECASE)


def file_name(name: str | None) -> str | None:
    """`name` as a bare file name of at most 255 bytes; None where nothing is left of the name."""
    if not name:
        return None
    name = _SEPARATORS.split(_BLANK.sub(" ", _seen(storable(name))))[-1]
    name = _ENDS.sub("", name)
    if not name:
        return None
    if _DEVICE.match(name):
        name = f"_{name}"
    return _cut(name)


def _seen(name: str) -> str:
    """The name without its invisible characters."""
    return _JOINERS.sub("", _UNSEEN.sub(lambda found: found["emoji"] or "", name))


def _cut(name: str) -> str:
    """The name cut to 255 bytes, keeping its extension."""
    if len(name.encode()) <= MAX_NAME_LENGTH:
        return name
    stem, dot, extension = name.rpartition(".")
    if not dot or len(extension) > _MAX_EXTENSION_LENGTH:
        stem, dot, extension = name, "", ""
    room = MAX_NAME_LENGTH - len((dot + extension).encode())
    stem = stem.encode()[:room].decode(errors="ignore")
    # Again, because the cut may have left a part of an emoji.
    return _ENDS.sub("", _seen(stem)) + dot + extension
