"""A mailbox on disk as Maildir++, as Dovecot and pymap serve it."""

import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from tasks.mail.imap.folders import encode_name

# pymap serves a file as it is, and lines end with CRLF in IMAP.
_LINE_END = re.compile(rb"\r?\n")


class Stored(Protocol):
    """A message and its folder."""

    @property
    def folder(self) -> str: ...
    @property
    def raw(self) -> bytes: ...
    @property
    def flags(self) -> str: ...
    @property
    def received(self) -> "Moment": ...


class Moment(Protocol):
    """The part of datetime that is needed here."""

    def timestamp(self) -> float: ...


def write(folder: Path, names: Iterable[str], messages: Iterable[Stored], *, utf7: bool) -> int:
    """Make the mailbox at `folder`, completely or not at all. Returns how many messages it has.

    Dovecot keeps folder names in modified UTF-7 on disk, pymap as they are.
    """
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    for name in names:
        for part in ("cur", "new", "tmp"):
            (_folder(unfinished, name, utf7) / part).mkdir(parents=True, mode=0o700)
    count = 0
    for count, message in enumerate(sorted(messages, key=lambda message: message.received.timestamp()), 1):
        seconds = int(message.received.timestamp())
        file = _folder(unfinished, message.folder, utf7) / "cur" / f"{seconds}.M{count}.demo:2,{message.flags}"
        file.write_bytes(_LINE_END.sub(b"\r\n", message.raw))
        os.utime(file, (seconds, seconds))  # the server gives this time as INTERNALDATE
    unfinished.rename(folder)
    return count


def _folder(root: Path, name: str, utf7: bool) -> Path:
    if name == "INBOX":
        return root
    # In Maildir++ the hierarchy is in the names: .Projects.Aurora
    return root / ("." + ".".join(encode_name(part) if utf7 else part for part in name.split("/")))
