"""The same mailbox through other programs: the raw IMAP stream, mbsync, offlineimap. Each returns seconds."""

import imaplib
import shutil
import subprocess
import time
from pathlib import Path

from native.dovecot import Dovecot

_FETCH = 500
_OFFLINEIMAP_SECONDS = 1800


def raw_stream(server: Dovecot, user: str, count: int) -> float:
    """imaplib fetching whole messages and throwing them away: what the server and the wire can do."""
    client = imaplib.IMAP4(server.host, server.port)
    client.login(user, server.password)
    client.select("INBOX", readonly=True)
    started = time.perf_counter()
    received = 0
    for first in range(1, count + 1, _FETCH):
        _, lines = client.fetch(f"{first}:{min(first + _FETCH - 1, count)}", "(UID FLAGS BODY.PEEK[])")
        received += sum(isinstance(line, tuple) for line in lines)
    seconds = time.perf_counter() - started
    client.logout()
    _require(received == count, f"the raw stream delivered {received} of {count} messages")
    return seconds


def mbsync(server: Dovecot, user: str, count: int, folder: Path) -> float | None:
    """mbsync into an empty Maildir; None where it is not installed."""
    if shutil.which("mbsync") is None:
        return None
    config = _private_file(
        folder / "mbsyncrc",
        f"""IMAPAccount server
Host {server.host}
Port {server.port}
User {user}
Pass {server.password}
SSLType None
AuthMechs LOGIN

IMAPStore far
Account server

MaildirStore near
Inbox {folder}/mail

Channel all
Far :far:
Near :near:
Patterns INBOX
Create Near
Sync Pull
SyncState *
""",
    )
    started = time.perf_counter()
    _run(["mbsync", "-q", "-c", str(config), "all"])
    seconds = time.perf_counter() - started
    _require(_stored(folder / "mail") == count, "mbsync did not store all messages")
    return seconds


def offlineimap(server: Dovecot, user: str, count: int, folder: Path) -> float | None:
    """offlineimap into an empty Maildir, quietly and with one connection; None where it is not installed."""
    if shutil.which("offlineimap") is None:
        return None
    config = _private_file(
        folder / "offlineimaprc",
        f"""[general]
accounts = bench
metadata = {folder}/metadata
ui = quiet

[Account bench]
localrepository = near
remoterepository = far

[Repository near]
type = Maildir
localfolders = {folder}/mail

[Repository far]
type = IMAP
remotehost = {server.host}
remoteport = {server.port}
remoteuser = {user}
remotepass = {server.password}
ssl = no
starttls = no
readonly = True
folderfilter = lambda name: name == 'INBOX'
""",
    )
    started = time.perf_counter()
    _run(["offlineimap", "-o", "-c", str(config)], _OFFLINEIMAP_SECONDS)
    seconds = time.perf_counter() - started
    _require(_stored(folder / "mail" / "INBOX") == count, "offlineimap did not store all messages")
    return seconds


def _private_file(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True)
    path.touch(mode=0o600)
    path.write_text(content)
    return path


def _run(command: list[str], timeout: float = 600) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    _require(done.returncode == 0, f"{command[0]} failed: {done.stderr[-500:]}")


def _stored(maildir: Path) -> int:
    return sum(1 for folder in ("cur", "new") for _ in (maildir / folder).iterdir())


def _require(condition: bool, complaint: str) -> None:
    if not condition:
        raise SystemExit(complaint)
