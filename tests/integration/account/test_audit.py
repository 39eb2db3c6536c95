"""`account audit`: what differs from the server, message by message, and that a repair mends it."""

import json
import time
from collections.abc import Callable

import psycopg2
import pytest
from click.testing import CliRunner, Result

from manage import account_audit, cli, progress
from native.postgres import libpq
from tasks.engine import audit as engine_audit
from tasks.engine.audit import audit as compare
from tasks.storage.accounts.rows import Account, find_account
from tests.conftest import TENANT, Database, register, sync
from tests.support.imap_server import BASIC, QRESYNC, ImapServer
from tests.support.mailbox import Mailbox, message
from tests.support.stored import column, stored_uids

RunAudit = Callable[..., Result]


@pytest.fixture
def audit(monkeypatch: pytest.MonkeyPatch) -> RunAudit:
    """The command, with a full sync in this process instead of one by a worker."""
    monkeypatch.setattr(account_audit, "connect", lambda *, broker: None)

    def full_sync(account: Account, *, full: bool) -> str:
        assert full
        sync(account, full_since=time.time() + 1)
        return "id"

    monkeypatch.setattr(progress, "queue_sync", full_sync)
    monkeypatch.setattr(progress, "watch", lambda task_id, *, quiet: {})

    def run(*options: str) -> Result:
        return CliRunner().invoke(cli.main, ["account", "audit", "mail", "--tenant", TENANT, *options])

    return run


def tamper(database: Database, *statements: str) -> None:
    connection = psycopg2.connect(libpq(database.owner_url))
    with connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
    connection.close()


def test_a_mailbox_that_agrees(account: Account, mailbox: Mailbox, audit: RunAudit) -> None:
    mailbox.append(message(n) for n in range(1, 6))
    sync(account)

    result = audit()

    assert result.exit_code == 0, result.output
    assert ["INBOX", "5", "5", "0", "0", "0", "0"] in [line.split() for line in result.stdout.splitlines()]


def test_what_differs_is_named_and_mended(
    account: Account, mailbox: Mailbox, database: Database, audit: RunAudit
) -> None:
    # Given messages that are lost here, and one that is gone there
    mailbox.append(message(n) for n in range(1, 8))
    sync(account)
    tamper(database, "DELETE FROM email_message WHERE imap_uid IN (2, 3, 5)")
    mailbox.expunge("7")

    result = audit("--json")

    [inbox] = [folder for folder in json.loads(result.stdout) if folder["name"] == "INBOX"]
    assert result.exit_code == 1
    assert (inbox["missing"], inbox["gone"], inbox["differs"], inbox["agrees"]) == ("2:3,5", "7", "", False)
    assert stored_uids() == [1, 4, 6, 7], "nothing is changed without being asked for"

    repaired = audit("--repair")
    assert repaired.exit_code == 0, repaired.output
    assert stored_uids() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("capabilities", [BASIC, QRESYNC], ids=["basic", "qresync"])
def test_another_message_under_a_uid(database: Database, audit: RunAudit, capabilities: str) -> None:
    with ImapServer(capabilities) as server:
        server.inbox.append(*(message(n) for n in range(1, 6)))
        sync(register(server))
        server.inbox.messages[4].raw = message(44)

        result = audit("--folder", "INBOX")

        assert result.exit_code == 1
        assert "INBOX: differ: UID 4" in result.stdout
        assert audit("--repair").exit_code == 0


def test_a_server_that_names_some_of_its_messages(database: Database, audit: RunAudit) -> None:
    with ImapServer() as server:
        server.inbox.append(*(message(n) for n in range(1, 31)))
        sync(register(server))
        server.inbox.window, server.inbox.exists = 10, 30

        result = audit("--repair")

        # Neither is anything called gone, nor all well
        assert result.exit_code == 1
        assert "10 of 30" in " ".join(result.stdout.split())
        assert stored_uids() == list(range(1, 31))


def test_folders_that_are_on_one_side_only(database: Database, audit: RunAudit) -> None:
    with ImapServer() as server:
        server.add_folder("Old").append(message(1))
        sync(register(server))
        del server.folders[b"Old"]
        server.add_folder("New", uidvalidity=7).append(message(2))

        result = audit()

        assert result.exit_code == 1
        assert "not here" in " ".join(result.stdout.split())
        assert audit("--folder", "nonsense").exit_code == 1
        assert audit("--repair").exit_code == 0
        assert sorted(column("SELECT name FROM email_folder")) == ["INBOX", "New"]


def test_a_maildrop(maildrop: Account, mailbox: Mailbox, database: Database, audit: RunAudit) -> None:
    mailbox.append([message(1)])
    mailbox.append([message(2)])
    sync(maildrop)
    assert audit().exit_code == 0

    mailbox.append([message(3)])
    assert audit().exit_code == 1
    assert audit("--repair").exit_code == 0
    assert column("SELECT count(*) FROM email_message") == [3]


def test_progress_is_told_of_each_part(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_audit, "_ENVELOPES_PER_REQUEST", 20)
    with ImapServer() as server:
        server.inbox.append(*(message(n) for n in range(1, 42)))
        sync(register(server))
        told: list[tuple[str, int, int]] = []

        [inbox] = compare(find_account(TENANT, "mail"), None, lambda *step: told.append(step))

        assert inbox.agrees
        assert told == [("INBOX", 20, 41), ("INBOX", 40, 41), ("INBOX", 41, 41)]
