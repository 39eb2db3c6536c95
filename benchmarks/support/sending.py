"""The mail server of benchmarks that send, what it says it has, and an account that sends through it."""

import smtplib
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.support.stack import PASSWORD, TENANT, USER

TEXT = "This is a line of an ordinary message, and there are some of it.\n" * 30
_PATIENCE_SECONDS = 300


class Sink:
    """The server, and what it says it has."""

    def __init__(self, port: int) -> None:
        self.port = port

    def connect(self) -> smtplib.SMTP:
        smtp = smtplib.SMTP("127.0.0.1", self.port, local_hostname="localhost")
        smtp.login(USER, PASSWORD)
        return smtp

    def reset(self) -> None:
        with smtplib.SMTP("127.0.0.1", self.port, local_hostname="localhost") as smtp:
            smtp.docmd("ZERO")

    def count(self) -> int:
        """How many messages have arrived."""
        with smtplib.SMTP("127.0.0.1", self.port, local_hostname="localhost") as smtp:
            return int(smtp.docmd("STAT")[1].split()[0])

    def rate(self, messages: int) -> float:
        """Messages a second from the first to the last, once all are there."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        with smtplib.SMTP("127.0.0.1", self.port, local_hostname="localhost") as smtp:
            while True:
                count, seconds = smtp.docmd("STAT")[1].split()
                if int(count) == messages:
                    return (messages - 1) / float(seconds)
                if int(count) > messages or time.monotonic() > deadline:
                    raise SystemExit(f"{int(count)} of {messages} messages arrived")
                time.sleep(0.05)


@contextmanager
def running_sink(root: Path, delay: int) -> Iterator[Sink]:
    """A server that is so many milliseconds away."""
    folder = root / f"sink-{delay}"
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "benchmarks.support.smtp_sink", "--delay", str(delay), "--folder", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Sink(int(process.stdout.readline()))
        finally:
            process.terminate()


def add_sender(sink: Sink) -> str:
    """Register an account that sends through the server; its id."""
    from tasks.storage.accounts.rows import NewAccount, add_account

    new = NewAccount(
        account_name=USER,
        email_address=f"{USER}@example.net",
        hostname="127.0.0.1",
        port=9,
        encryption="none",
        username=USER,
        password=PASSWORD,
        smtp_hostname="127.0.0.1",
        smtp_port=sink.port,
        smtp_encryption="none",
        sent_copies="none",
    )
    return add_account(TENANT, USER, new)
