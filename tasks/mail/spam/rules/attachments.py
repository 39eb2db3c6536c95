"""Rules on files that run code when they are opened, and on files that hide that they do."""

import re
from collections.abc import Iterator
from typing import Final

from tasks.mail.message import Attachment
from tasks.mail.spam.evidence import CONTENT_LIMIT, Evidence
from tasks.mail.spam.verdict import Finding

_EXECUTABLE: Final = frozenset({
    "ace", "apk", "app", "appx", "bat", "chm", "cmd", "cpl", "dll", "exe", "gadget", "hta", "inf", "jar",
    "jnlp", "js", "jse", "lnk", "msc", "msi", "msix", "msp", "pif", "ps1", "reg", "scf", "scr", "settingcontent-ms",
    "url", "vb", "vbe", "vbs", "wsf", "wsh", "xll",
})  # fmt: skip
_IMAGES_OF_DISKS: Final = frozenset({"daa", "img", "iso", "vhd", "vhdx", "udf"})
_MACROS: Final = frozenset({"docm", "dotm", "potm", "ppam", "ppsm", "pptm", "sldm", "xlam", "xlsb", "xlsm", "xltm"})
_PAGES: Final = frozenset({"htm", "html", "mht", "mhtml", "shtml", "xht", "xhtml", "svg"})
_DOCUMENT: Final = re.compile(
    r"\.(?:pdf|docx?|xlsx?|pptx?|odt|ods|rtf|txt|csv|jpe?g|png|gif|html?|zip|mp[34]|wav)[\s._]*\.[^.]+\Z",
    re.IGNORECASE,
)
_PROGRAM_MAGIC: Final = (b"MZ", b"\x7fELF")
_ZIP: Final = b"PK\x03\x04"
_OLE: Final = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
# Names of streams in an OLE file are UTF-16.
_VBA_IN_OLE: Final = "_VBA_PROJECT".encode("utf-16-le")
_VBA_IN_ZIP: Final = b"vbaProject.bin"
_MAX_ZIP_NAME_LENGTH: Final = 260
_MAX_ZIP_ENTRIES: Final = 200


def check(evidence: Evidence) -> Iterator[Finding]:
    """Rules on the files of a message."""
    for attachment in evidence.message.attachments:
        yield from _check_name(attachment.filename or "")
        yield from _check_content(attachment)


def _check_name(name: str) -> Iterator[Finding]:
    extension = _extension(name)
    if extension in _EXECUTABLE:
        yield Finding("executable", name)
        if _DOCUMENT.search(name):
            yield Finding("double_extension", name)
    elif extension in _MACROS:
        yield Finding("macros", name)
    elif extension in _IMAGES_OF_DISKS:
        yield Finding("disk_image", name)
    elif extension in _PAGES:
        yield Finding("html_file", name)


def _check_content(attachment: Attachment) -> Iterator[Finding]:
    content, name = attachment.content, attachment.filename or attachment.mime_type
    if content.startswith(_PROGRAM_MAGIC) and _extension(name) not in _EXECUTABLE and _is_program(content):
        yield Finding("disguised_executable", name)
    elif content.startswith(_ZIP):
        yield from _check_zip(name, content)
    elif content.startswith(_OLE) and content.find(_VBA_IN_OLE, 0, CONTENT_LIMIT) >= 0:
        yield Finding("macros", name)


def _is_program(content: bytes) -> bool:
    # "MZ" alone may begin a text; a program also has a PE header or a DOS message, or is ELF.
    return content.startswith(b"\x7fELF") or b"PE\0\0" in content[:4096] or b"DOS mode" in content[:4096]


def _check_zip(name: str, content: bytes) -> Iterator[Finding]:
    """Names and flags of a ZIP file's entries (APPNOTE 4.3.7), read without unpacking anything."""
    position = 0
    for _ in range(_MAX_ZIP_ENTRIES):
        if content[position + 6 : position + 7] and content[position + 6] & 1:
            yield Finding("locked_archive", name)
        length = int.from_bytes(content[position + 26 : position + 28], "little")
        entry = content[position + 30 : position + 30 + min(length, _MAX_ZIP_NAME_LENGTH)].decode("utf-8", "replace")
        if entry.endswith(_VBA_IN_ZIP.decode()):
            yield Finding("macros", name)
        elif _extension(entry) in _EXECUTABLE and _extension(name) not in ("jar", "apk", "xll"):
            yield Finding("executable_in_archive", f"{entry} in {name}")
        position = content.find(_ZIP, position + 30, CONTENT_LIMIT)
        if position < 0:
            break


def _extension(name: str) -> str:
    return name.rpartition(".")[2].strip(" .").lower() if "." in name else ""
