"""Names and purposes of folders: modified UTF-7 (RFC 3501 section 5.1.3) and special use (RFC 6154)."""

import base64
import binascii
import re
from collections.abc import Iterable
from typing import NamedTuple

from tasks.mail.kinds import FolderType

# "Almost certain" and "likely to represent a virtual mailbox" (RFC 6154 section 2, RFC 8457 section 3).
_VIEWS = {"\\all", "\\flagged", "\\important"}
# RFC 6154 section 2.
_SPECIAL_USE = {
    "\\sent": FolderType.SENT,
    "\\drafts": FolderType.DRAFTS,
    "\\trash": FolderType.TRASH,
    "\\junk": FolderType.SPAM,
    "\\archive": FolderType.ARCHIVE,
}

# Names that common providers and clients give such folders, for servers without special use; compared without case.
_COMMON_NAMES = {
    FolderType.SENT: (
        "sent", "sent items", "sent messages", "sent mail", "gesendet", "gesendete objekte", "gesendete elemente",
        "éléments envoyés", "messages envoyés", "envoyés", "enviados", "elementos enviados", "posta inviata",
        "inviata", "verzonden", "verzonden items", "отправленные", "wysłane", "skickat", "送信済みメール", "已发送",
        "已发送邮件",
    ),
    FolderType.DRAFTS: (
        "drafts", "draft", "entwürfe", "brouillons", "borradores", "rascunhos", "bozze", "concepten", "черновики",
        "szkice", "utkast", "下書き", "草稿", "草稿箱",
    ),
    FolderType.TRASH: (
        "trash", "deleted items", "deleted messages", "deleted", "bin", "papierkorb", "gelöschte objekte",
        "gelöschte elemente", "corbeille", "éléments supprimés", "papelera", "elementos eliminados", "lixeira",
        "cestino", "posta eliminata", "prullenbak", "verwijderde items", "корзина", "удаленные", "kosz",
        "papperskorgen", "ゴミ箱", "已删除", "已删除邮件",
    ),
    FolderType.SPAM: (
        "spam", "junk", "junk e-mail", "junk email", "junk mail", "bulk mail", "spamverdacht", "unerwünscht",
        "courrier indésirable", "indésirables", "correo no deseado", "lixo eletrônico", "posta indesiderata",
        "ongewenste e-mail", "спам", "skräppost", "迷惑メール", "垃圾邮件",
    ),
    FolderType.ARCHIVE: (
        "archive", "archives", "archiv", "archivo", "arquivo", "archivio", "archief", "архив", "归档",
    ),
}  # fmt: skip
_TYPE_BY_NAME = {name: kind for kind, names in _COMMON_NAMES.items() for name in names}

# The parents of such folders: the top level, INBOX, or [Gmail].
_SPECIAL_PARENTS = ("", "inbox", "[gmail]", "[google mail]")

_ENCODED = re.compile(r"&([A-Za-z0-9+,]*)-")
_NOT_PLAIN = re.compile(r"[^\x20-\x7e]+|&")
# In a name that is no UTF-8, the bytes 80 to FF become characters for private use from here on, so that different
# names stay different. (PostgreSQL takes no lone surrogates.)
_FIRST_RAW = 0xEF00
_RAW = re.compile("[\uef80-\uefff]")
_UNREADABLE = re.compile("[\udc80-\udcff\uef80-\uefff]")
_NOT_SELECTABLE = {"\\noselect", "\\nonexistent"}


class ListedFolder(NamedTuple):
    """One answer to LIST. `path` is the name as the server writes it (`read_path`), its attributes in lower case."""

    path: str
    delimiter: str | None
    attributes: frozenset[str]

    @property
    def name(self) -> str:
        """The name for people; bytes that nobody can read are shown as `%F6`."""
        return _RAW.sub(lambda raw: f"%{ord(raw[0]) & 0xFF:02X}", decode_name(self.path))

    @property
    def is_selectable(self) -> bool:
        return not self.attributes & _NOT_SELECTABLE

    @property
    def is_view(self) -> bool:
        """Whether the folder is a view: it shows messages of other folders a second time. Not for Gmail."""
        return bool(self.attributes & _VIEWS) and _type_by_attribute(self) == FolderType.CUSTOM


def classify(folders: Iterable[ListedFolder]) -> dict[str, FolderType]:
    """The type of each folder by its path: by special use, else by its name.

    At most one folder gets a type by its name, and only if the server gave this special use to no folder.
    """
    folders = list(folders)
    types = {folder.path: _type_by_attribute(folder) for folder in folders}
    taken = set(types.values()) - {FolderType.CUSTOM}
    for folder in folders:
        guess = _type_by_name(folder)
        if types[folder.path] == FolderType.CUSTOM and guess != FolderType.CUSTOM and guess not in taken:
            types[folder.path] = guess
            taken.add(guess)
    return types


def decode_name(path: str) -> str:
    """Read modified UTF-7. A name that is not canonical modified UTF-7 is returned unchanged."""
    try:
        name = _ENCODED.sub(_decode_run, path)
    except (UnicodeDecodeError, binascii.Error):
        return path
    # A NUL is no character of a name (RFC 9051 section 9), and no database takes one.
    return name if encode_name(name) == path and "\0" not in name else path


def encode_name(name: str) -> str:
    """Write modified UTF-7."""
    return _NOT_PLAIN.sub(_encode_run, name)


def read_path(wire: bytes) -> str:
    """A name from the wire: read as UTF-8, with a character
    for private use in place of each byte that is no UTF-8."""
    text = wire.decode("utf-8", "surrogateescape")
    return text if text.isascii() else _UNREADABLE.sub(_keep_bytes, text)


def wire_path(path: str) -> bytes:
    """The name that `read_path` read, as a quoted string. Raises ValueError where no quoted string can hold it."""
    quoted = quote(path)
    if not _RAW.search(quoted):
        return quoted.encode()
    return b"".join(
        bytes([ord(character) & 0xFF]) if _RAW.match(character) else character.encode() for character in quoted
    )


def quote(path: str) -> str:
    """`path` as a quoted string (RFC 9051 section 4.3). Raises ValueError where no quoted string can hold it."""
    if any(character in path for character in "\r\n\0"):
        raise ValueError(f"a folder name with a line break or NUL cannot be quoted: {path!r}")
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _type_by_attribute(folder: ListedFolder) -> FolderType:
    if folder.path.upper() == "INBOX":
        return FolderType.INBOX
    for attribute, kind in _SPECIAL_USE.items():
        if attribute in folder.attributes:
            return kind
    return FolderType.CUSTOM


def _type_by_name(folder: ListedFolder) -> FolderType:
    if not folder.is_selectable:
        return FolderType.CUSTOM
    name = folder.name.lower()
    parent, leaf = "", name
    if folder.delimiter and folder.delimiter in name:
        parent, _, leaf = name.rpartition(folder.delimiter)
    return _TYPE_BY_NAME.get(leaf, FolderType.CUSTOM) if parent in _SPECIAL_PARENTS else FolderType.CUSTOM


def _keep_bytes(match: re.Match[str]) -> str:
    return "".join(chr(_FIRST_RAW + byte) for byte in match[0].encode("utf-8", "surrogateescape"))


def _decode_run(match: re.Match[str]) -> str:
    encoded = match[1]
    if not encoded:
        return "&"
    padded = encoded.replace(",", "/") + "=" * (-len(encoded) % 4)
    return base64.b64decode(padded, validate=True).decode("utf-16-be")


def _encode_run(match: re.Match[str]) -> str:
    if match[0] == "&":
        return "&-"
    encoded = base64.b64encode(match[0].encode("utf-16-be")).decode().rstrip("=")
    return "&" + encoded.replace("/", ",") + "-"
