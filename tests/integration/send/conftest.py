"""An account that sends through a recording server, and whose mailbox is on a real Dovecot."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tasks.engine.connection_cache import imap_pool, smtp_pool
from tasks.engine.send.draft import SendRequest
from tasks.engine.send.outbox import send
from tasks.storage.accounts.rows import Account
from tasks.storage.outbox import Outgoing
from tests.conftest import Database, register
from tests.support.mailbox import Mailbox
from tests.support.smtp_server import SmtpServer
from tests.support.stored import rows

Send = Callable[..., Outgoing]


@pytest.fixture
def smtp() -> Iterator[SmtpServer]:
    """A server that takes everything, until told otherwise."""
    with SmtpServer() as server:
        yield server


@pytest.fixture(autouse=True)
def pools() -> Iterator[None]:
    """No connection outlives its test."""
    yield
    smtp_pool().close()
    imap_pool().close()


def sending_account(mailbox: Mailbox, smtp: SmtpServer, **changes: object) -> Account:
    """The mailbox, with the server to send through."""
    settings: dict[str, object] = {
        "email_address": "ada@example.org",
        "smtp_hostname": smtp.host,
        "smtp_port": smtp.port,
        "smtp_encryption": "none",
        "smtp_password": smtp.password,
        "sent_copies": "none",
    }
    return register(mailbox, **{**settings, **changes})


@pytest.fixture
def sender(database: Database, smtp: SmtpServer) -> Account:
    """An account that files no copies; its mailbox is nowhere."""
    return sending_account(Mailbox("127.0.0.1", 9, "ada", "x"), smtp)


@pytest.fixture
def send_once(environment: Callable[..., None]) -> Send:
    """One run of a task for a message; a second one with the same `task` is its redelivery."""
    environment(SMTP_TIMEOUT="1", SMTP_RETRIES="2")
    runs = iter(range(1000))

    def run(account: Account, task: str = "task-1", key: str | None = None, **message: Any) -> Outgoing:
        message = {"to": ["bob@example.net"], "subject": task, "body_text": "Hello.", **message}
        request = SendRequest(account.id, account.tenant_id, account.user_id, **message)
        return send(request, key or f"task:{task}", f"{task}:{next(runs)}")

    return run


def let_it_be_due(age: str = "0 seconds") -> None:
    """The next try of each message is due, and each was asked for so long ago."""
    rows(
        "UPDATE outbox_message SET next_try_at = now() - interval '1 second', "
        f"asked_at = asked_at - interval '{age}' RETURNING 1"
    )


def row(column: str = "state") -> object:
    """That column of the only row of the outbox."""
    (found,) = rows(f"SELECT {column} FROM outbox_message")
    return found[0]
