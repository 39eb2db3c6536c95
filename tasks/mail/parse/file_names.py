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
# Control characters, line ends, and runs of blanks, which would push the rest of the name out of sight.
_BLANK = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+|[\s\u2800]{4,}")
# Invisible characters, and characters that reverse the text: soft hyphens, joiners, marks, overrides and isolates of
# direction, fillers, annotations, tags. Not the tags in the flags of England, Scotland and Wales (UTS 51).
_UNSEEN = re.compile(
    "(?P<flag>\U0001f3f4[\U000e0020-\U000e007e]{1,8}\U000e007f)|"
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164\ufeff\uffa0"
    "\ufff9-\ufffb\U0001d173-\U0001d17a\U000e0000-\U000e007f]"
)
# Joiners are needed in Persian, Hindi and groups of emoji.
# Beside a Latin letter, or twice in a row, they are removed.
_JOINERS = re.compile(r"(?<![^\x00-\u024f\u200c\u200d])[\u200c\u200d]+|[\u200c\u200d](?![^\x00-\u024f\u200c\u200d])")
# Windows drops dots and blanks at the end of a name.
_ENDS = re.compile(r"^[\s\u2800]+|[\s\u2800.]+$")
_DEVICE = re.compile(r"(?:con|prn|aux|nul|conin\$|conout\$|clock\$|(?:com|lpt)[0-9¹²³])[\s]*(?=\.|$)", re.IGNORECASE)


def file_name(name: str | None) -> str | None:
    """`name` as a bare file name of at most 255 bytes; None where nothing is left of the name."""
    if not name:
        return None
    name = _UNSEEN.sub(lambda found: found["flag"] or "", storable(name))
    name = _SEPARATORS.split(_BLANK.sub(" ", name))[-1]
    name = _ENDS.sub("", _JOINERS.sub("", name))
    if not name:
        return None
    if _DEVICE.match(name):
        name = f"_{name}"
    return _cut(name)


def _cut(name: str) -> str:
    """The name cut to 255 bytes, keeping its extension."""
    if len(name.encode()) <= MAX_NAME_LENGTH:
        return name
    stem, dot, extension = name.rpartition(".")
    if not dot or len(extension) > _MAX_EXTENSION_LENGTH:
        stem, dot, extension = name, "", ""
    room = MAX_NAME_LENGTH - len((dot + extension).encode())
    stem = stem.encode()[:room].decode(errors="ignore")
    return _ENDS.sub("", _JOINERS.sub("", stem)) + dot + extension
