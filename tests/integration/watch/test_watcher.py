"""A watcher and mail servers that hang up, refuse, flood or say nothing; and two watchers that share accounts."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.storage.accounts.rows import Account
from tests.conftest import Database, register, sync
from tests.support.application import Broker
from tests.support.imap_faults import hang
from tests.support.imap_server import QRESYNC, ImapServer
from tests.support.mailbox import Mailbox, message
from tests.support.stored import rows
from tests.support.watcher import running_watcher
from tests.support.worker import wait_until

# What a server needs for its mailbox to be watched.
WATCHABLE = f"{QRESYNC} IDLE"


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


def folder_id(name: str) -> object:
    return rows("SELECT id FROM email_folder WHERE name = :name", name=name)[0][0]


def queued(broker: Broker, account: Account, folder: object) -> None:
    """Wait until one sync of the folder is queued, take it, and be the worker that has done it."""
    found: list[list[object]] = []
    wait_until(lambda: found.extend(broker.taken("sync")) or found, "no sync was queued")
    assert found == [[account.id, account.tenant_id, account.user_id, folder]]
    rows("UPDATE email_client SET sync_queued_at = NULL RETURNING 1")


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


def test_a_watcher_that_is_killed_is_replaced_and_a_stopped_one_gives_up(server: ImapServer, tmp_path: Path) -> None:
    names = [f"mail {number}" for number in range(4)]
    for name in names:
        watchable(server, name)
    with running_watcher(tmp_path) as first:
        first.wait_until_watching(*names)
        with running_watcher(tmp_path, 2) as second:
            # The second watcher gets its share, and no account is watched twice.
            wait_until(lambda: len(first.watched()) == len(second.watched()) == 2, "the accounts are not shared")
            assert sorted(first.watched() + second.watched()) == names
            wait_until(lambda: server.open_now == 4, "an account has two connections, or none")

            first.kill()
            second.wait_until_watching(*names)
            wait_until(lambda: server.open_now == 4, "an account has two connections, or none")

            # A paused account is let go, and taken up again when it is resumed.
            rows("UPDATE email_client SET paused_at = now() WHERE account_name = 'mail 0' RETURNING 1")
            second.wait_until_watching(*names[1:])
            wait_until(lambda: server.open_now == 3, "the connection of a paused account is still open")
            rows("UPDATE email_client SET paused_at = NULL RETURNING 1")
            second.wait_until_watching(*names)

            second.signal(signal.SIGTERM)
            wait_until(lambda: server.open_now == 0, "a watcher that stops leaves connections open")
            assert rows("SELECT 1 FROM email_client WHERE watched_by IS NOT NULL") == []
