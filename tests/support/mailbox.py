"""A mailbox on a real IMAP server, changed as another mail client would change it."""

import imaplib
import socket
import time
from collections.abc import Iterable
from email.message import EmailMessage
from functools import lru_cache

from tasks.mail.imap.folders import encode_name, quote

_NUMBER = "-number-"


def message(number: int, *, body: str = "Hello.", subject: str | None = None, **headers: str) -> bytes:
    """A small message with a Message-ID of its own."""
    shape = _shape(body, subject or f"Message {_NUMBER}", **headers)
    return shape.replace(_NUMBER.encode(), str(number).encode())


@lru_cache(100)
def _shape(body: str, subject: str, **headers: str) -> bytes:
    """A message without its number. Composing takes milliseconds, and some tests need thousands of messages."""
    mail = EmailMessage()
    mail["From"] = "Ada <ada@example.org>"
    mail["To"] = "Bob <bob@example.org>"
    mail["Subject"] = subject
    mail["Date"] = "Mon, 02 Mar 2026 10:00:00 +0000"
    mail["Message-ID"] = f"<{_NUMBER}@example.org>"
    for name, value in headers.items():
        del mail[name.replace("_", "-")]
        mail[name.replace("_", "-")] = value
    mail.set_content(f"{body}\n")
    return mail.as_bytes().replace(b"\n", b"\r\n")


class Mailbox:
    """One user's mail. Folder names are given as people write them, parents before a slash.

    `above` is what the server has before the name of every folder but INBOX, its delimiter at the end.
    """

    def __init__(self, host: str, port: int, user: str, password: str, *, above: str = "") -> None:
        self.host, self.port, self.user, self.password = host, port, user, password
        self._above = above

    def name(self, folder: str) -> str:
        """The folder's whole name on the server."""
        if folder.upper() == "INBOX":
            return folder
        return self._above + folder.replace("/", self._above[-1:] or "/")

    def client(self) -> imaplib.IMAP4:
        """A logged-in connection."""
        client = imaplib.IMAP4(self.host, self.port, timeout=20)
        # Else the end of the line after each literal would wait 40 ms for the server to acknowledge the literal.
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.login(self.user, self.password)
        return client

    def append(
        self, messages: Iterable[bytes], folder: str = "INBOX", flags: str = "", *, received: float | None = None
    ) -> None:
        """Add messages to a folder; `received` is their INTERNALDATE in Unix seconds, now by default."""
        with self.client() as client:
            for raw in messages:
                _ok(client.append(self._path(folder), f"({flags})", received or time.time(), raw))

    def create(self, folder: str) -> None:
        """Make a folder."""
        with self.client() as client:
            _ok(client.create(self._path(folder)))

    def rename(self, folder: str, new_name: str) -> None:
        """Give a folder another name."""
        with self.client() as client:
            _ok(client.rename(self._path(folder), self._path(new_name)))

    def remove(self, folder: str) -> None:
        """Remove a folder with its messages."""
        with self.client() as client:
            _ok(client.delete(self._path(folder)))

    def flag(self, uids: str, flags: str, folder: str = "INBOX", *, how: str = "+FLAGS") -> None:
        """Add flags (`how="-FLAGS"`: take them away) to messages by UID."""
        with self.client() as client:
            client.select(self._path(folder))
            _ok(client.uid("STORE", uids, how, f"({flags})"))

    def expunge(self, uids: str, folder: str = "INBOX") -> None:
        """Remove messages by UID for good."""
        with self.client() as client:
            client.select(self._path(folder))
            _ok(client.uid("STORE", uids, "+FLAGS", r"(\Deleted)"))
            _ok(client.expunge())

    def move(self, uids: str, target: str, folder: str = "INBOX") -> None:
        """Move messages by UID to another folder."""
        with self.client() as client:
            client.select(self._path(folder))
            _ok(client.xatom("UID", "MOVE", uids, self._path(target)))

    def _path(self, folder: str) -> str:
        return quote(encode_name(self.name(folder)))

    def uids(self, folder: str = "INBOX") -> list[int]:
        """The UIDs of a folder."""
        with self.client() as client:
            client.select(self._path(folder), readonly=True)
            _, lines = client.uid("SEARCH", "ALL")
            return [int(uid) for uid in (lines[0] or b"").split()]

    def subjects(self, folder: str = "INBOX") -> list[str]:
        """The subjects of a folder's messages, in order."""
        with self.client() as client:
            client.select(self._path(folder), readonly=True)
            _, lines = client.uid("FETCH", "1:*", "(BODY.PEEK[HEADER.FIELDS (SUBJECT)])")
            return [line[1].decode().strip().removeprefix("Subject: ") for line in lines if isinstance(line, tuple)]


def _ok(answer: tuple[str, list[object]]) -> None:
    assert answer[0] == "OK", answer
