"""A watcher and mail servers that hang up, refuse, flood or say nothing; and watchers that share accounts."""

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg2
import pytest

from native.postgres import SUPERUSER, libpq
from tasks.storage.accounts.rows import Account
from tasks.watch.watcher import LEASE_SECONDS, ROUND_SECONDS
from tests.conftest import Database, register, sync
from tests.support.application import Broker
from tests.support.imap_faults import hang
from tests.support.imap_server import QRESYNC, ImapServer
from tests.support.mailbox import Mailbox, message
from tests.support.stored import rows
from tests.support.watcher import WatcherProcess, running_watcher
from tests.support.worker import peak_memory, wait_until

# What a server needs for its mailbox to be watched.
WATCHABLE = f"{QRESYNC} IDLE"
_MUCH = 1024 * 1024


@pytest.fixture
def server(database: Database, broker: Broker, environment: Callable[..., None]) -> Iterator[ImapServer]:
    """A server with two folders whose connections begin IDLE anew every second."""
    environment(WATCH_IDLE_SECONDS="1", WATCH_FOLDERS_SECONDS="1")
    with ImapServer(WATCHABLE) as server:
        server.inbox.append(message(1))
        server.add_folder("Work").append(message(2))
        yield server


def watchable(server: ImapServer, name: str = "mail") -> Account:
    """The server's mailbox as an account that is synced, and due in a day."""
    account = register(Mailbox(server.host, server.port, server.user, server.password), name)
    sync(account)
    rows("UPDATE email_client SET sync_interval = 86400, next_sync_at = now() + interval '1 day' RETURNING 1")
    return account


def folder_id(name: str, account: Account | None = None) -> object:
    """The id of a folder, of any account or of this one."""
    found = "SELECT id FROM email_folder WHERE name = :name AND (email_client_id = :account OR :account IS NULL)"
    return rows(found, name=name, account=account and account.id)[0][0]


def queued(broker: Broker, account: Account, folder: object) -> None:
    """Wait until one sync of the folder is queued, take it, and be the worker that has done it."""
    found: list[list[object]] = []
    wait_until(lambda: found.extend(broker.taken("sync")) or found, "no sync was queued")
    assert found == [[account.id, account.tenant_id, account.user_id, folder]]
    rows("UPDATE email_client SET sync_queued_at = NULL RETURNING 1")


def assert_taken_over_in_two_rounds(database: Database, dead: WatcherProcess, *others: WatcherProcess) -> None:
    """Wait until others have the accounts of a watcher that was killed. They have to have them before each of them
    begins a third round after its lease ended: within 30 s, unless the machine is so slow that rounds take longer."""
    assert LEASE_SECONDS + 3 * ROUND_SECONDS <= 30
    accounts_of_others = "SELECT count(*) FROM email_client WHERE split_part(watched_by, ':', 2) = ANY(%s)"
    superuser = libpq(database.server.url(SUPERUSER, database.name))
    with closing(psycopg2.connect(superuser)) as connection, connection.cursor() as cursor:
        connection.autocommit = True

        def leases() -> dict[int, float]:
            """Until when each watcher is alive, by its process, in Unix seconds."""
            cursor.execute("SELECT split_part(id, ':', 2), extract(epoch FROM alive_until) FROM mail_watcher")
            return {int(pid): float(until) for pid, until in cursor.fetchall()}

        def are_taken_over() -> bool:
            cursor.execute(accounts_of_others, [[str(watcher.pid) for watcher in others]])
            return cursor.fetchone() == (6,)

        end = leases().get(dead.pid, time.time())
        begun: dict[int, set[float]] = {watcher.pid: set() for watcher in others}

        def is_over() -> bool:
            for pid, until in leases().items():
                if pid in begun and until - LEASE_SECONDS > end:
                    begun[pid].add(until)
            if are_taken_over():
                return True
            assert min(map(len, begun.values())) < 3, "the accounts are not taken over in two rounds"
            return False

        wait_until(is_over, "the accounts are not taken over")


@contextmanager
def flooding(server: ImapServer) -> Iterator[Callable[[], int]]:
    """Has the server send lines over a connection without end. Gives how many bytes it has offered so far."""
    found: list[socket.socket] = []
    wait_until(lambda: found.extend(server.idle) or found, "no connection is in IDLE")
    [connection] = found
    stopped, offered = threading.Event(), 0
    lines = b"* OK still here\r\n" * 4096

    def flood() -> None:
        nonlocal offered
        while not stopped.is_set():
            try:
                offered += connection.send(lines)
            except TimeoutError:
                continue
            except OSError:
                return

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        yield lambda: offered
    finally:
        stopped.set()
        thread.join()


def test_each_change_queues_one_sync_of_its_folder(server: ImapServer, broker: Broker, tmp_path: Path) -> None:
    account = watchable(server)
    inbox, work = folder_id("INBOX"), folder_id("Work")
    with running_watcher(tmp_path) as watcher:
        watcher.wait_until_watching("mail")
        assert broker.taken("sync") == []  # nothing changed since the sync before

        # INBOX, of which the server tells: in a flood of lines, of which most say nothing new
        server.inbox.append(message(3))
        server.tell(b"* 2 EXISTS\r\n" * 5000 + b"* OK still here\r\n* 1 RECENT\r\n* nonsense\r\n\r\n")
        queued(broker, account, inbox)

        # another folder, which the watcher looks at
        server.folders[b"Work"].append(message(4))
        queued(broker, account, work)

        # while a sync is queued or at work there is no other one; the change is queued when that has ended
        server.tell(b"* 1 EXPUNGE\r\n")
        wait_until(lambda: rows("SELECT 1 FROM email_client WHERE sync_queued_at IS NOT NULL"), "no sync is queued")
        server.tell(b"* 1 FETCH (FLAGS ())\r\n")
        idles = len(server.commands("IDLE"))
        wait_until(lambda: len(server.commands("IDLE")) > idles + 1, "IDLE is not begun anew")
        queued(broker, account, inbox)
        queued(broker, account, inbox)

    # one login, however often IDLE began anew; and what was sent to the server changed nothing there
    assert server.logins == 2
    assert not server.commands("SELECT")


def test_a_connection_that_ends_is_made_again_and_what_was_missed_is_found(
    server: ImapServer, broker: Broker, environment: Callable[..., None], tmp_path: Path
) -> None:
    environment(MAIL_TIMEOUT="3")
    account = watchable(server)
    with running_watcher(tmp_path) as watcher:
        watcher.wait_until_watching("mail")
        for number, fault in enumerate(("goodbye", "silence", "endless"), start=2):
            logins = server.logins
            if fault == "silence":
                server.on("DONE", hang)
            server.inbox.append(message(number))
            if fault == "goodbye":
                server.tell(b"* BYE going down\r\n", hang_up=True)
            if fault == "endless":
                server.tell(b"* OK " + b"x" * 100_000)
            wait_until(lambda before=logins: server.logins > before, f"no new login after {fault}")
            queued(broker, account, folder_id("INBOX"))
            watcher.wait_until_watching("mail")


def test_a_mailbox_whose_server_refuses_idle_is_polled_and_says_so(
    server: ImapServer, broker: Broker, tmp_path: Path
) -> None:
    server.decline("IDLE", "BAD what is that")
    watchable(server)
    with running_watcher(tmp_path):
        given_up = "SELECT watch_problem FROM email_client WHERE watched_by IS NULL AND watch_retry_at > now()"
        wait_until(lambda: rows(given_up), "the account is not given up")
    [(problem,)] = rows(given_up)
    assert "refuses IDLE: what is that" in str(problem)
    assert broker.taken("sync") == []


def test_each_account_has_one_watcher_of_three_which_are_stopped_killed_and_started(
    server: ImapServer, database: Database, broker: Broker, tmp_path: Path
) -> None:
    accounts = [watchable(server, f"mail {number}") for number in range(6)]

    def wait_until_shared(*watchers: WatcherProcess, names: int = 6) -> None:
        """Each has its share, nobody else has any, and each account has one connection."""
        share = names // len(watchers)
        wait_until(
            lambda: (
                [len(watcher.watched()) for watcher in watchers] == [share] * len(watchers)
                and server.open_now == names
            ),
            "the accounts are not shared",
        )

    with (
        running_watcher(tmp_path) as first,
        running_watcher(tmp_path, 2) as second,
        running_watcher(tmp_path, 3) as third,
    ):
        wait_until_shared(first, second, third)

        # Stopped, it keeps its connections; the others have all accounts, and each change causes one sync.
        first.signal(signal.SIGSTOP)
        wait_until(lambda: len(second.watched()) == len(third.watched()) == 3, "the stopped one is not replaced")
        server.inbox.append(message(3))
        server.tell(b"* 2 EXISTS\r\n")
        found: list[list[object]] = []
        wait_until(lambda: found.extend(broker.taken("sync")) or len(found) >= 6, "a sync is missing")
        assert sorted(str(account) for account, *_ in found) == sorted(account.id for account in accounts)
        for account in accounts:
            sync(account)

        # When it goes on, it hears of the change too, which is another's now. It lets go, and gets its share anew.
        rows("UPDATE email_client SET sync_queued_at = NULL RETURNING 1")
        first.signal(signal.SIGCONT)
        wait_until_shared(first, second, third)
        assert broker.taken("sync") == []

        third.kill()
        assert_taken_over_in_two_rounds(database, third, first, second)
        wait_until_shared(first, second)
        with running_watcher(tmp_path, 4) as fourth:
            wait_until_shared(first, second, fourth)
            fourth.stop()
            wait_until_shared(first, second)

        # A paused account is let go, and taken up again when it is resumed.
        rows("UPDATE email_client SET paused_at = now() WHERE account_name IN ('mail 0', 'mail 1') RETURNING 1")
        wait_until_shared(first, second, names=4)
        rows("UPDATE email_client SET paused_at = NULL RETURNING 1")
        wait_until_shared(first, second)

        for watcher in (first, second):
            watcher.stop()
        wait_until(lambda: server.open_now == 0, "a watcher that stops leaves connections open")
        assert rows("SELECT 1 FROM email_client WHERE watched_by IS NOT NULL") == []


def test_a_server_that_floods_takes_no_memory_and_holds_up_no_other_account(
    server: ImapServer, broker: Broker, environment: Callable[..., None], tmp_path: Path
) -> None:
    environment(MAIL_TIMEOUT="3")
    watchable(server, "flooded")
    with ImapServer(WATCHABLE) as other:
        other.inbox.append(message(1))
        quiet = watchable(other, "quiet")
        with running_watcher(tmp_path) as watcher:
            watcher.wait_until_watching("flooded", "quiet")
            before, logins = peak_memory(watcher.pid), server.logins
            with flooding(server) as sent:
                wait_until(lambda: sent() > _MUCH, "the flood does not begin")
                other.inbox.append(message(2))
                other.tell(b"* 2 EXISTS\r\n")
                queued(broker, quiet, folder_id("INBOX", quiet))
                # The end of IDLE is not answered in time, among all the lines, so the watcher hangs up.
                wait_until(lambda: server.logins > logins, "the watcher does not hang up")
            assert peak_memory(watcher.pid) - before < 16 * _MUCH
            watcher.wait_until_watching("flooded", "quiet")
