"""What a worker does while a login that worked is refused: nothing is hammered, lost or given up."""

from collections.abc import Iterator

import pytest

from tasks.storage.accounts.rows import Account, find_account
from tests.conftest import TENANT, USER, Database
from tests.integration.faults.conftest import Queue
from tests.integration.send.conftest import let_it_be_due, sending_account
from tests.support.imap_server import ImapServer
from tests.support.mailbox import Mailbox, message
from tests.support.smtp_server import SmtpServer
from tests.support.stored import column, rows
from tests.support.worker import Worker, wait_until

CAPABILITIES = "IMAP4rev1 AUTH=PLAIN UIDPLUS MOVE SPECIAL-USE"


@pytest.fixture
def imap(database: Database) -> Iterator[ImapServer]:
    with ImapServer(CAPABILITIES) as server:
        server.inbox.append(message(1))
        server.add_folder("Trash", attributes="\\Trash")
        yield server


@pytest.fixture
def smtp() -> Iterator[SmtpServer]:
    with SmtpServer() as server:
        yield server


@pytest.fixture
def account(imap: ImapServer, smtp: SmtpServer, worker: Worker, tasks_queue: Queue) -> Account:
    """An account that was synced and has sent; then both servers forget its password."""
    account = sending_account(Mailbox(imap.host, imap.port, "ada", "sample"), smtp)
    tasks_queue.sync(account).get(timeout=60)
    send(tasks_queue, account, "first").get(timeout=60)
    smtp.hang_up()
    imap.password = smtp.password = "changed"
    return account


def send(queue: Queue, account: Account, subject: str):  # type: ignore[no-untyped-def]  # celery has no types
    arguments = (account.id, TENANT, USER, ["bob@example.net"])
    options = {"subject": subject, "body_text": "Hello."}
    return queue.app.send_task("email_service.tasks.send_email", arguments, options, queue="send")


def let_the_next_login_be_due() -> None:
    rows("UPDATE email_client SET login_retry_at = now(), smtp_login_retry_at = now() RETURNING 1")


def logins(smtp: SmtpServer) -> int:
    return sum(line.startswith(b"AUTH") for line in smtp.received)


def test_mail_and_deletes_wait_and_syncs_do_not_repeat_the_login(
    account: Account, imap: ImapServer, smtp: SmtpServer, worker: Worker, tasks_queue: Queue
) -> None:
    # When a message is sent, one is deleted, and the account is synced, several times
    before = (imap.logins, logins(smtp))
    with pytest.raises(Exception, match="refused since"):
        tasks_queue.sync(account).get(timeout=60)
    sending = send(tasks_queue, account, "second")
    [stored] = column("SELECT id FROM email_message")
    deleting = tasks_queue.app.send_task(
        "email_service.tasks.delete_emails", ([stored], TENANT, USER), queue="delete"
    )
    for _ in range(3):
        with pytest.raises(Exception, match="the next try is at"):
            tasks_queue.sync(account).get(timeout=60)
    wait_until(lambda: ("queued",) in rows("SELECT state FROM outbox_message"), "the message does not wait")
    wait_until(lambda: worker.log.read_text().count("Retry in") >= 3, "the tasks do not come back")
    wait_until(lambda: sending.state == "WAITING", "the message does not wait in the outbox")

    # Then each side was tried once, both wait, and nothing is paused
    assert (imap.logins, logins(smtp)) == (before[0] + 1, before[1] + 1)
    assert (sending.state, deleting.state) == ("WAITING", "RETRY")
    refused = find_account(TENANT, account.id)
    assert (refused.paused_at, refused.smtp_paused_at) == (None, None)
    assert "sample" not in worker.log.read_text()

    # And when the servers take the password again, all is done
    imap.password = smtp.password = "sample"
    let_the_next_login_be_due()
    let_it_be_due()
    tasks_queue.app.send_task("email_service.tasks.queue_waiting_mail", queue="periodic")
    assert sending.get(timeout=60)["status"] == "success"
    assert deleting.get(timeout=60)["deleted_count"] == 1
    assert tasks_queue.sync(account).get(timeout=60)["status"] == "success"
    assert smtp.taken() == ["first", "second"]
    assert column("SELECT count(*) FROM dead_letter") == [0]
