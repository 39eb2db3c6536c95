"""The IMAP server `pymap` (pure Python), for the demo mailbox where no Dovecot is installed."""

import sys
from pathlib import Path

from native.ports import LOOPBACK, answers
from native.process import Server

# pymap has no `python -m`, and its script names the interpreter by a path that breaks when a clone is moved.
_MAIN = "from pymap.main import main; main()"


class Pymap(Server):
    """Serves the Maildir++ mailbox `mail_root/USER` on `port`, without encryption, to that user only."""

    name = "pymap"
    host = LOOPBACK

    def __init__(self, root: Path, mail_root: Path, user: str, password: str, *, port: int) -> None:
        super().__init__(root)
        self.mail_root = mail_root
        self.user = user
        self.password = password
        self.port = port

    def init(self) -> None:
        """Write the files with users and hashed passwords, which pymap reads next to the mailbox."""
        from pysasl.hashing import BuiltinHash

        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.mail_root.mkdir(parents=True, exist_ok=True, mode=0o700)
        (self.mail_root / "pymap-etc-passwd").write_text(f"{self.user}:x::::{self.user}:\n")
        shadow = self.mail_root / "pymap-etc-shadow"
        shadow.touch(mode=0o600)
        # Few rounds: the password is random and long, and each login would take half a second otherwise.
        hashed = BuiltinHash(rounds=1000).hash(self.password)
        shadow.write_text(f"{self.user}:{hashed}:::::::\n")

    def command(self) -> list[str]:
        listen = ["--host", self.host, "--port", str(self.port), "--no-tls"]
        return [sys.executable, "-c", _MAIN, *listen, "maildir", str(self.mail_root)]

    def start(self) -> None:
        """Start pymap and wait until it listens."""
        self.init()
        super().start()

    def is_ready(self) -> bool:
        return answers(self.port)
