"""Many messages at once for a real server: written where Dovecot keeps its mail."""

from collections.abc import Iterable
from pathlib import Path

from native.dovecot import Dovecot
from native.unprivileged import identity
from tests.support.mailbox import Mailbox


def fill(dovecot: Dovecot, mailbox: Mailbox, messages: Iterable[bytes]) -> Path:
    """Make the mailbox's INBOX of these messages, before anyone logs in."""
    folder = dovecot.mail_root / mailbox.user
    for part in ("cur", "new", "tmp"):
        (folder / part).mkdir(parents=True, mode=0o700)
    for number, raw in enumerate(messages, 1):
        (folder / "cur" / f"{1_772_445_600 + number}.M{number:06}.test:2,").write_bytes(raw)
    identity().hand_over(folder)
    return folder
