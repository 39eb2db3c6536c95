"""What the benchmark of watched mailboxes needs: mail servers that say when they have a message, many accounts, a
watcher, and a reader of events as an application has one."""

import imaplib
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any, Protocol

from benchmarks.support.mailbox import message_maker
from benchmarks.support.stack import PASSWORD, TENANT, USER, Stack
from tests.support.certificates import Authority

HOST = "127.0.0.1"
_PATIENCE_SECONDS = 120

# Copies of the first account, which nobody watches yet. Each has a user of its own at the mail server, and all have
# the same password.
COPY_ACCOUNTS = """
INSERT INTO email_client SELECT copy.* FROM email_client AS first, generate_series(%(first)s, %(last)s) AS n,
  jsonb_populate_record(NULL::email_client, to_jsonb(first) || jsonb_build_object(
    'id', 'account-' || n, 'account_name', 'account ' || n, 'email_address', 'user-' || n || '@example.net',
    'username', 'user-' || n, 'watched_by', NULL, 'watched_since', NULL
  )) AS copy WHERE first.username = 'user-0';
INSERT INTO email_folder SELECT copy.* FROM email_folder AS first, generate_series(%(first)s, %(last)s) AS n,
  jsonb_populate_record(NULL::email_folder, to_jsonb(first) || jsonb_build_object(
    'id', first.id || '-' || n, 'email_client_id', 'account-' || n
  )) AS copy WHERE first.email_client_id = (SELECT id FROM email_client WHERE username = 'user-0');
"""
_CONNECTED = "SELECT count(*) FROM email_client WHERE watched_since IS NOT NULL"
# When PostgreSQL had committed each message, with its event: the same transaction.
_COMMITTED = """
SELECT message.message_id, extract(epoch FROM pg_xact_commit_timestamp(event.xmin))
FROM event JOIN email_message AS message ON message.id = event.data ->> 'email_message_id'
WHERE event.type = 'message.created'
"""


class MailServer(Protocol):
    """Puts messages into INBOXes. `has_since` says for each of them when the server had it (seconds since 1970)."""

    port: int
    has_since: dict[int, float]

    def deliver(self, user: str, number: int) -> None: ...


class ScriptedMailServer:
    """benchmarks/support/watched_server.py."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._orders, self._answers = process.stdin, process.stdout
        self.port, self.has_since = int(self._answers.readline()), dict[int, float]()

    def deliver(self, user: str, number: int) -> None:
        _, since = self._order("deliver", user, str(number))
        self.has_since[number] = float(since)

    def drop(self) -> float:
        """End all connections. The moment just before."""
        return float(*self._order("drop"))

    def logins(self, since: float) -> list[float]:
        """The moments of all logins since then."""
        return [float(moment) for moment in self._order("logins", str(since))]

    def _order(self, *words: str) -> list[str]:
        print(*words, file=self._orders, flush=True)
        return self._answers.readline().split()


@contextmanager
def scripted_server(authority: Authority | None) -> Iterator[ScriptedMailServer]:
    """A scripted server, with TLS if there is an authority for its certificate."""
    command = [sys.executable, "-m", "benchmarks.support.watched_server"]
    if authority:
        files = authority.issue("server", HOST)
        command += ["--certificate", str(files.certificate), "--key", str(files.key)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:  # type: ignore[call-overload]  # a dict
        try:
            yield ScriptedMailServer(process)
        finally:
            process.terminate()


class DovecotMailServer:
    """Dovecot, which has a message from the moment at which its last byte was sent by APPEND."""

    def __init__(self, stack: Stack) -> None:
        self.port, self.has_since = stack.dovecot.port, dict[int, float]()
        self._make = message_maker()

    def deliver(self, user: str, number: int) -> None:
        raw = self._make(number)
        with imaplib.IMAP4(HOST, self.port) as client:
            client.login(user, PASSWORD)
            client.send(b"new APPEND INBOX {%d+}\r\n" % len(raw) + raw)
            self.has_since[number] = time.time()
            client.send(b"\r\n")
            if not (line := client.readline()).startswith(b"new OK"):
                raise SystemExit(f"Dovecot refused an APPEND: {line!r}")


class Accounts:
    """Accounts of the tenant on one mail server, each synced, and due in a day."""

    def __init__(self, stack: Stack, port: int, encryption: str) -> None:
        from tasks.storage.accounts.rows import NewAccount, add_account

        self._stack, self.number = stack, 1
        new = NewAccount("account 0", "user-0@example.net", HOST, port, encryption, "user-0", PASSWORD)
        stack.sync(add_account(TENANT, USER, new))
        self._run("UPDATE email_client SET sync_interval = 86400, next_sync_at = now() + interval '1 day'")

    def make(self, number: int) -> None:
        """As many more as are missing to this number."""
        self._run(COPY_ACCOUNTS, {"first": self.number, "last": number - 1})
        self.number = number
        self._run("ANALYZE email_client, email_folder")

    def wait_until_watched(self) -> float:
        """Wait until all are watched, and how many seconds that took."""
        began = last = time.monotonic()
        connected = 0
        while connected < self.number:
            time.sleep(0.1)
            before, [[connected]] = connected, self._run(_CONNECTED)
            if connected > before:
                last = time.monotonic()
            if time.monotonic() - last > _PATIENCE_SECONDS:
                raise SystemExit(f"{connected} of {self.number} mailboxes are watched, and no more for a while")
        return time.monotonic() - began

    def committed(self) -> dict[int, float]:
        """When the row of each message was committed, by the message's number."""
        return {_number(message_id): float(moment) for message_id, moment in self._run(_COMMITTED)}

    def message_ids(self) -> dict[str, int]:
        """The number of each stored message, by the row's id."""
        return {row: _number(message_id) for row, message_id in self._run("SELECT id, message_id FROM email_message")}

    def _run(self, statement: str, values: dict[str, int] | None = None) -> list[tuple[Any, ...]]:
        return self._stack.as_superuser(statement, values)


def _number(message_id: str) -> int:
    return int(message_id.strip("<").partition(".")[0])


class EventReader:
    """Reads the tenant's events as docs/application.md says. `read` is when each new message's event was read."""

    def __init__(self) -> None:
        self.read: dict[str, float] = {}
        self._done = Event()
        self._thread = Thread(target=self._follow, daemon=True)

    def __enter__(self) -> "EventReader":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def wait_for(self, number: int) -> None:
        """Wait until so many new messages were told."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while len(self.read) < number:
            if time.monotonic() > deadline:
                raise SystemExit(f"{len(self.read)} of {number} messages were told")
            time.sleep(0.05)

    def _follow(self) -> None:
        from tasks.storage.events import CHANNEL, events_after, number_held_back, position_now
        from tasks.storage.session import listening

        position = position_now(TENANT)
        with listening(CHANNEL) as listener:
            while not self._done.is_set():
                patience = 0.5 if number_held_back(TENANT) else 1.0
                while events := events_after(TENANT, position, 100):
                    now, position = time.time(), events[-1].position
                    self.read |= {
                        event.data["email_message_id"]: now for event in events if event.type == "message.created"
                    }
                select.select([listener], [], [], patience)
                listener.poll()
                listener.notifies.clear()


def percentiles(seconds: Sequence[float]) -> tuple[float, float]:
    """The median, and what 99 of 100 are not above."""
    ordered = sorted(seconds)
    return ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
