"""A worker whose name server is away: no mail fails of that, and none waits in the worker or in Redis."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from celery.result import AsyncResult

from tasks.runtime.control import get_task_status
from tasks.storage.accounts.rows import Account, find_account
from tests.conftest import TENANT, USER, Database
from tests.integration.faults.conftest import Queue, broker
from tests.integration.send.conftest import let_it_be_due, sending_account
from tests.support.application import application
from tests.support.mailbox import Mailbox
from tests.support.servers import RedisServer
from tests.support.smtp_server import SmtpServer
from tests.support.stored import column, rows
from tests.support.worker import Worker, wait_until

MAILS = 10
SEND = "email_service.tasks.send_email"


@pytest.fixture
def resolver_down(short_waits: None, tmp_path: Path, environment: Callable[..., None]) -> Path:
    """While this is a file the worker resolves no names."""
    environment(RESOLVER_DOWN=str(tmp_path / "down"), SMTP_RETRIES="1", SMTP_TIMEOUT="2")
    return tmp_path / "down"


@pytest.fixture
def smtp() -> Iterator[SmtpServer]:
    with SmtpServer() as server:
        yield server


@pytest.fixture
def account(resolver_down: Path, database: Database, smtp: SmtpServer) -> Account:
    return sending_account(Mailbox("imap.mail.test", 9, "ada", "x"), smtp, smtp_hostname="smtp.mail.test")


@pytest.fixture
def sender(resolver_down: Path, tmp_path: Path) -> Iterator[Worker]:
    with Worker(tmp_path, 2, app="tests.support.resolver_app:app") as worker:
        yield worker


def arguments(account: Account, subject: str) -> tuple[tuple[object, ...], dict[str, str]]:
    return (account.id, TENANT, USER, ["bob@example.net"]), {"subject": subject, "body_text": "Hello."}


def dispatch(queue: Queue) -> int:
    """What beat has run every 30 s; how many messages it queued."""
    task = queue.app.send_task("email_service.tasks.queue_waiting_mail", queue="periodic")
    return int(task.get(timeout=60)["messages"])


def waiting() -> int:
    return len(rows("SELECT 1 FROM outbox_message WHERE state = 'queued' AND dispatched_at IS NULL"))


def test_an_outage_of_the_name_server_costs_no_mail_and_no_account(
    account: Account, smtp: SmtpServer, resolver_down: Path, sender: Worker, tasks_queue: Queue, redis: RedisServer
) -> None:
    # Given mail that is sent while no name resolves, one with a task that is to follow
    resolver_down.touch()
    sent: list[AsyncResult] = []
    for number in range(MAILS):
        args, kwargs = arguments(account, f"mail {number}")
        sent.append(tasks_queue.app.send_task(SEND, args, kwargs, queue="send"))
    args, kwargs = arguments(account, "what follows")
    follows = tasks_queue.app.signature(SEND, args, kwargs, queue="send", immutable=True)
    args, kwargs = arguments(account, "the last")
    sent.append(tasks_queue.app.send_task(SEND, args, kwargs, queue="send", link=follows))

    # Then all wait in the outbox, none in Redis, and it is said until when and why
    wait_until(lambda: waiting() == MAILS + 1, "they do not wait")
    with broker(redis) as client:
        wait_until(lambda: not client.zcard("unacked_index") and not client.llen("send"), "tasks are left")
    with application():
        status = get_task_status(sent[0].id)
    assert (status["state"], status["waiting"]["error_code"]) == ("WAITING", "server_unavailable")
    assert "name server does not answer" in status["waiting"]["error"]
    assert status["waiting"]["next_try_at"] > status["waiting"]["waiting_since"]

    # When the next tries are due, then one asks for all
    let_it_be_due()
    assert dispatch(tasks_queue) == 1
    wait_until(lambda: waiting() == MAILS + 1, "the one does not wait again")
    assert column("SELECT count(*) FROM outbox_message WHERE next_try_at > now()") == [1]

    # And the sync of the account is tried again as well, and nothing is paused
    with pytest.raises(Exception, match="name server does not answer"):
        tasks_queue.sync(account).get(timeout=60)
    found = find_account(TENANT, account.id)
    assert (found.paused_at, found.smtp_paused_at, found.last_error_code) == (None, None, "server_unavailable")

    # When Redis lost all it had, and names resolve, then the first success lets the others go
    with broker(redis) as client:
        client.flushall()
    resolver_down.unlink()
    let_it_be_due()
    assert dispatch(tasks_queue) == 1
    wait_until(lambda: len(smtp.messages) == 1, "nothing is sent")
    # One of them may be queued before the success is noted, as the next that asks.
    released: list[int] = []
    wait_until(
        lambda: released.append(dispatch(tasks_queue)) or sum(released) == MAILS, "the others are not released"
    )
    assert len([messages for messages in released if messages]) <= 2
    assert {result.get(timeout=60)["status"] for result in sent} == {"success"}
    wait_until(lambda: len(smtp.messages) == MAILS + 2, "what follows does not")
    assert sorted(smtp.taken()) == sorted([*(f"mail {n}" for n in range(MAILS)), "the last", "what follows"])
    wait_until(lambda: column("SELECT DISTINCT state FROM outbox_message") == ["sent"], "one is not done with")
    assert column("SELECT count(*) FROM dead_letter WHERE task_name LIKE '%send%'") == [0]
    assert "sample" not in sender.log.read_text()
