"""A server that sends a byte now and then, so that no read times out: tasks on it fail in the end, not never."""

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery.result import AsyncResult

from native.dovecot import Dovecot
from tests.conftest import TENANT, USER, register, sync
from tests.integration.faults.conftest import Queue
from tests.integration.send.conftest import row, sending_account
from tests.support.mailbox import Mailbox, message
from tests.support.smtp_server import SmtpServer
from tests.support.stored import column, rows, stored_uids
from tests.support.tcp_server import TcpServer
from tests.support.worker import Worker, wait_until

_PAUSE_SECONDS = 0.2


class Dripper(TcpServer):
    """Never comes to the end of its greeting."""

    extensions, password = (), "sample"

    def serve(self, client: socket.socket, number: int) -> None:
        with client:
            while not self._stopped.wait(_PAUSE_SECONDS):
                try:
                    client.sendall(b"2")
                except OSError:
                    return


@pytest.fixture
def dripper() -> Iterator[Dripper]:
    with Dripper() as server:
        yield server


@pytest.fixture
def short_tasks(short_waits: None, environment: Callable[..., None]) -> None:
    """A task may work for two seconds."""
    environment(CELERY_TASK_SOFT_TIME_LIMIT="2", TASK_TIMEOUT="10", SMTP_TIMEOUT="1", SMTP_RETRIES="2")


def error_of(task: AsyncResult) -> str:
    """What it fails with in the end."""
    return type(task.get(timeout=180, propagate=False)).__name__


def send(queue: Queue, account_id: str) -> AsyncResult:
    arguments: dict[str, Any] = {"subject": "m", "body_text": "Hello."}
    return queue.app.send_task(
        "email_service.tasks.send_email",
        (account_id, TENANT, USER, ["bob@example.net"]),
        arguments,
        queue="send",
    )


def test_a_sync_is_tried_six_times(short_tasks: None, tasks_queue: Queue, dripper: Dripper, tmp_path: Path) -> None:
    account = register(Mailbox(dripper.host, dripper.port, "ada", "x"))
    with Worker(tmp_path):
        assert error_of(tasks_queue.sync(account)) == "TooSlowError"
        wait_until(lambda: column("SELECT error_code FROM dead_letter") == ["too_slow"], "no dead letter")

    assert dripper.connections == 6
    assert column("SELECT last_error_code FROM email_client") == ["too_slow"]


def test_a_delete_is_tried_three_times(
    dovecot: Dovecot, mailbox: Mailbox, short_tasks: None, tasks_queue: Queue, dripper: Dripper, tmp_path: Path
) -> None:
    mailbox.append([message(1), message(2)])
    sync(register(mailbox))
    column(
        "WITH moved AS (UPDATE email_client SET port = :port RETURNING id) SELECT id FROM moved", port=dripper.port
    )
    ids = [str(email_id) for email_id in column("SELECT id FROM email_message")]
    with Worker(tmp_path):
        task = tasks_queue.app.send_task("email_service.tasks.delete_emails", (ids, TENANT, USER), queue="delete")
        assert error_of(task) == "TooSlowError"
        wait_until(lambda: column("SELECT error_code FROM dead_letter") == ["too_slow"], "no dead letter")

    assert dripper.connections == 3
    assert stored_uids() == [1, 2]


def test_sending_is_tried_as_often_as_the_settings_say_and_waits(
    short_tasks: None, tasks_queue: Queue, dripper: Dripper, tmp_path: Path
) -> None:
    account = sending_account(Mailbox("127.0.0.1", 9, "ada", "x"), dripper)  # type: ignore[arg-type]
    with Worker(tmp_path):
        task = send(tasks_queue, account.id)
        wait_until(lambda: task.state == "WAITING", "it does not wait", 60)

    assert dripper.connections == 3
    assert rows("SELECT state, last_error_code FROM outbox_message") == [("queued", "too_slow")]


def test_a_message_whose_answer_drips_is_not_sent_again(
    short_tasks: None, tasks_queue: Queue, tmp_path: Path
) -> None:
    with SmtpServer() as smtp:
        account = sending_account(Mailbox("127.0.0.1", 9, "ada", "x"), smtp)

        def drip() -> str:
            end = time.monotonic() + 4
            while time.monotonic() < end:
                for connection in list(smtp._open):
                    connection.sendall(b"2")
                time.sleep(_PAUSE_SECONDS)
            return "250 taken"

        smtp.on("accepted", drip)
        with Worker(tmp_path):
            task = send(tasks_queue, account.id)
            # Its mailbox, where the message could be looked for, is nowhere
            wait_until(lambda: task.state == "WAITING", "it does not wait", 60)

        assert len(smtp.messages) == 1
    assert row() == "unknown"
