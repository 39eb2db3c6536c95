"""Accounts that cannot be synced: a clear error on the account, and no storm of tries. Scripted, to count them."""

import socket
from collections.abc import Callable, Iterator

import pytest
from celery.result import AsyncResult

from manage.progress import queue_sync
from tasks.celery_app import delete_emails, sync_emails
from tasks.engine.probe import probe
from tasks.errors import (
    AccountPausedError,
    AuthenticationFailedError,
    EncryptionUnavailableError,
    HostNotAllowedError,
    MailServerBusyError,
    MailServerUnavailableError,
    UnknownHostError,
)
from tasks.storage.accounts.dispatch import claim_due_accounts
from tasks.storage.accounts.rows import find_account
from tests.conftest import TENANT, USER, Database, register, sync
from tests.integration.faults.conftest import Queue
from tests.support.imap_faults import drop, refuse
from tests.support.imap_server import BASIC, ImapServer
from tests.support.mailbox import message
from tests.support.stored import column
from tests.support.worker import Worker, wait_until


@pytest.fixture
def server(database: Database) -> Iterator[ImapServer]:
    with ImapServer() as server:
        server.inbox.append(message(1))
        yield server


def test_a_wrong_password_pauses_the_account_after_one_try(
    server: ImapServer, worker: Worker, tasks_queue: Queue
) -> None:
    # Given an account whose password is wrong
    server.password = "changed"
    account = register(server, password="sample")

    # When a worker syncs it
    with pytest.raises(Exception, match="refuses the user name or password"):
        tasks_queue.sync(account).get(timeout=60)

    # Then it was tried once, and the account says what is wrong
    assert (server.connections, server.logins) == (1, 1)
    paused = find_account(TENANT, account.id)
    assert paused.last_error_code == "authentication_failed"
    assert paused.paused_at is not None
    assert "wrong user name or password" in str(paused.last_error)
    assert "sample" not in str(paused.last_error)
    assert "sample" not in worker.log.read_text()
    # and the schedule leaves it alone
    assert list(claim_due_accounts(10, 300)) == []

    # When the server takes the password after all, and the account is tested
    server.password = "sample"
    probe(account)

    # Then it is due again
    assert [due.email_client_id for [due] in claim_due_accounts(10, 300)] == [account.id]


def test_a_paused_account_is_left_alone_by_tasks_until_a_person_tries_it(
    server: ImapServer, monkeypatch: pytest.MonkeyPatch, environment: Callable[..., None]
) -> None:
    # Given an account with a message, that was paused
    environment(MAIL_LOGIN_PATIENCE_HOURS="0")
    account = register(server)
    sync(account)
    server.password = "changed"
    with pytest.raises(AuthenticationFailedError):
        sync(account)
    paused, connections = find_account(TENANT, account.id), server.connections

    # When tasks want something of it, then they are refused with the reason, and no server is asked
    messages = column("SELECT id FROM email_message")
    for _ in range(2):
        with pytest.raises(
            AccountPausedError, match=r"a test of the account that succeeds.*wrong user name or password"
        ):
            sync(account)
        with pytest.raises(AccountPausedError):
            delete_emails.run(messages, TENANT, USER)
    assert server.connections == connections
    # and what the account says is what it said
    assert find_account(TENANT, account.id)._replace(read_at=paused.read_at) == paused
    assert column("SELECT lease_owner FROM email_client") == [None]

    # When a person asks for a sync, it is tried once, and with the right password the pause is over
    queued: list[object] = []
    monkeypatch.setattr(sync_emails, "apply_async", lambda *_, **__: queued.append(1) or AsyncResult("id"))
    with pytest.raises(AuthenticationFailedError):
        queue_sync(find_account(TENANT, account.id))
    assert (server.connections, queued) == (connections + 1, [])
    server.password = "sample"
    queue_sync(find_account(TENANT, account.id))
    assert (find_account(TENANT, account.id).paused_at, queued) == (None, [1])
    sync(account)


def test_an_unknown_host_is_said_and_not_tried_again(server: ImapServer, worker: Worker, tasks_queue: Queue) -> None:
    account = register(server, hostname="mail.invalid")

    with pytest.raises(Exception, match="does not resolve"):
        tasks_queue.sync(account).get(timeout=60)

    failed = find_account(TENANT, account.id)
    assert failed.last_error_code == UnknownHostError.code
    assert "mail.invalid" in str(failed.last_error)
    assert failed.paused_at is None
    assert worker.log.read_text().count("received") == 1
    assert list(claim_due_accounts(10, 300)) == []


def test_a_server_that_is_away_is_tried_a_few_times_only(
    server: ImapServer, worker: Worker, tasks_queue: Queue
) -> None:
    # Given a server that drops everyone
    server.on("LIST", drop, times=None)
    account = register(server)

    with pytest.raises(Exception, match="closed the connection"):
        tasks_queue.sync(account).get(timeout=120)

    assert server.connections == 6  # once, and five retries
    assert find_account(TENANT, account.id).last_error_code == "server_unavailable"
    wait_until(lambda: column("SELECT lease_owner FROM email_client") == [None], "the lease is not given back")


BUSY = [
    "NO [UNAVAILABLE] try later",
    "NO [LIMIT] too many sessions",
    "NO [INUSE] locked",
    "NO Too many simultaneous connections",
    "NO Temporary authentication failure",
]


@pytest.mark.parametrize("words", BUSY)
@pytest.mark.parametrize("capabilities", [BASIC, f"{BASIC} AUTH=PLAIN"], ids=["login", "sasl"])
def test_a_busy_server_is_not_a_wrong_password(server: ImapServer, capabilities: str, words: str) -> None:
    server.capabilities = capabilities
    server.login_refusal = words
    account = register(server)

    with pytest.raises(MailServerBusyError):
        sync(account)

    busy = find_account(TENANT, account.id)
    assert (busy.paused_at, busy.last_error_code) == (None, "server_busy")


@pytest.mark.parametrize("capabilities", [BASIC, f"{BASIC} AUTH=PLAIN"], ids=["login", "sasl"])
@pytest.mark.parametrize("password", ['a "b" \\c', "pa$$ wörd 密", "(){%*]", " "])
def test_any_password_arrives_as_it_is(server: ImapServer, capabilities: str, password: str) -> None:
    server.capabilities, server.password = capabilities, password

    assert sync(register(server)).total("synced") == 1


@pytest.mark.parametrize("capabilities", [BASIC, f"{BASIC} AUTH=PLAIN"], ids=["login", "sasl"])
@pytest.mark.parametrize("words", ["NO Authentication failed", "NO [AUTHENTICATIONFAILED] wrong, please try again"])
def test_a_wrong_password_is_one_however_it_is_sent(server: ImapServer, capabilities: str, words: str) -> None:
    server.capabilities, server.login_refusal = capabilities, words
    account = register(server)

    with pytest.raises(AuthenticationFailedError):
        sync(account)

    # By words alone it may be the mechanism that is refused, so the other one is tried.
    assert server.logins == (2 if "AUTH=" in capabilities and "[" not in words else 1)


@pytest.mark.parametrize(
    ("greeting", "error"),
    [
        (b"* BYE Too many connections\r\n", MailServerBusyError),
        (b"* BYE going down\r\n", MailServerUnavailableError),
        (b"HTTP/1.1 400 Bad Request\r\n", Exception),
    ],
)
def test_a_server_that_greets_otherwise_is_a_passing_condition(
    server: ImapServer, greeting: bytes, error: type[Exception]
) -> None:
    server.greeting = greeting
    account = register(server)

    with pytest.raises(error):
        sync(account)

    assert find_account(TENANT, account.id).paused_at is None


def test_nothing_that_listens_is_a_passing_condition(database: Database, server: ImapServer) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but does not listen
        account = register(server, port=taken.getsockname()[1])
        with pytest.raises(MailServerUnavailableError):
            sync(account)


WITHOUT_ENCRYPTION = {
    "starttls is not offered": ("starttls", BASIC, None),
    "starttls is refused": ("starttls", f"{BASIC} STARTTLS", refuse("NO no certificate")),
    "plaintext is forbidden": ("none", f"{BASIC} STARTTLS LOGINDISABLED", None),
}


@pytest.mark.parametrize(
    ("encryption", "capabilities", "action"), WITHOUT_ENCRYPTION.values(), ids=WITHOUT_ENCRYPTION
)
def test_no_password_is_sent_without_the_encryption_asked_for(
    server: ImapServer, encryption: str, capabilities: str, action: object
) -> None:
    server.capabilities = capabilities
    if action:
        server.on("STARTTLS", action)
    account = register(server, encryption=encryption)

    with pytest.raises(EncryptionUnavailableError):
        sync(account)

    assert server.logins == 0
    assert not any(line.startswith((b"LOGIN", b"AUTHENTICATE")) or b"sample" in line for line in server.received)
    assert find_account(TENANT, account.id).last_error_code == "encryption_unavailable"


@pytest.mark.parametrize(
    "hostname", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "::ffff:127.0.0.1", "0.0.0.0"]
)
@pytest.mark.parametrize("elsewhere", ["10.0.0.0/8", "127.0.0.1=1,127.0.0.2/32"])
def test_an_account_does_not_lead_a_worker_to_what_is_inside(
    server: ImapServer, environment: Callable[..., None], hostname: str, elsewhere: str
) -> None:
    environment(MAIL_ALLOWED_NETWORKS=elsewhere)
    account = register(server, hostname=hostname)

    with pytest.raises(HostNotAllowedError):
        sync(account)

    assert server.connections == 0
    assert find_account(TENANT, account.id).last_error_code == "host_not_allowed"
