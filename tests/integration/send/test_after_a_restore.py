"""A database that is restored to an earlier moment: what was sent after that moment is not sent a second time."""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from typing import Any

import psycopg2
import pytest
import redis as redis_client
from celery import Celery
from click.testing import CliRunner

from manage import cli, outbox
from manage import restore as command
from native.postgres import libpq
from tasks import restored
from tasks.engine.send.outbox import resume_waiting
from tasks.errors import (
    DeliveryUnknownError,
    DeliveryWaitsError,
    MailServerBusyError,
    MessageRefusedError,
)
from tasks.registry import SEND_EMAIL, SEND_WAITING
from tasks.runtime.dead_letters import list_aside, list_not_published, retry_aside, show_aside
from tasks.runtime.scheduler import TICKED
from tasks.storage.accounts.rows import Account
from tasks.storage.events import EventPositionError, events_after
from tasks.storage.session import database_now
from tasks.storage.waiting import claim_waiting
from tests.conftest import TENANT, USER, Database
from tests.integration.faults.conftest import broker as connection_to
from tests.integration.send.conftest import Send, row, sending_account
from tests.support.application import application
from tests.support.mailbox import Mailbox
from tests.support.servers import RedisServer
from tests.support.smtp_server import SmtpServer, reply
from tests.support.stored import rows
from tests.support.told import told
from tests.support.worker import wait_until

HOUR = 3600
GoBack = Callable[[], None]


@pytest.fixture
def app(redis: RedisServer, database: Database, environment: Callable[..., None]) -> Iterator[Celery]:
    """The application, with an empty Redis."""
    environment(REDIS_URL=redis.url)
    with application() as app:
        yield app


@pytest.fixture
def broker(app: Celery, redis: RedisServer) -> Iterator[redis_client.Redis]:
    with connection_to(redis) as client:
        yield client


@pytest.fixture
def remember(database: Database, environment: Callable[..., None]) -> Iterator[Callable[[], GoBack]]:
    """Called, it remembers the database as it is, and gives what restores the database to that moment."""
    copies: list[Database] = []

    def remember() -> GoBack:
        environment()  # ends the connections of this process
        copies.append(database.copy(f"{database.name}_at_the_moment"))
        copy = copies[-1]
        return lambda: environment(DATABASE_URL=copy.worker_url)

    yield remember
    environment(DATABASE_URL=database.worker_url)
    for copy in copies:
        copy.server.drop_database(copy.name)


@pytest.fixture
def account(database: Database, mailbox: Mailbox, smtp: SmtpServer) -> Account:
    """It files copies of what it sends."""
    return sending_account(mailbox, smtp, sent_copies="append")


def state_of(outbox_id: str) -> object:
    return rows("SELECT state FROM outbox_message WHERE id = :id", id=outbox_id)[0][0]


def key_id(key: str) -> str:
    return str(rows("SELECT id FROM outbox_message WHERE key = :key", key=key)[0][0])


def publish(app: Celery, subject: str, account: Account, task_id: str, key: str | None = None) -> None:
    arguments = {
        "email_client_id": account.id,
        "tenant_id": TENANT,
        "user_id": USER,
        "to": "bob@example.net",
        "subject": subject,
        "idempotency_key": key,
    }
    app.tasks[SEND_EMAIL].apply_async(kwargs=arguments, task_id=task_id)


def run_what_waits(app: Celery) -> None:
    """Do what workers and beat do: take each task of the queue that sends, and what is due in the outbox."""
    with (
        app.connection_for_read() as connection,
        connection.SimpleQueue("send") as queue,
        suppress(queue.Empty),
    ):
        while message := queue.get_nowait():
            args, kwargs, _ = message.payload
            app.tasks[message.headers["task"]].apply(args, kwargs, task_id=message.headers["id"])
            message.ack()
    for due in claim_waiting(1000, 600):
        try:
            resume_waiting(TENANT, USER, due.outbox_id, f"{due.outbox_id}:beat")
        except DeliveryUnknownError:
            continue


def settle(app: Celery, moment: datetime) -> dict[str, Any]:
    done = restored.settle(app, "restore-1", moment)
    return {**done.settled.found, "kept": done.kept, "aside": done.aside}


def test_no_mail_is_sent_twice(
    account: Account,
    mailbox: Mailbox,
    smtp: SmtpServer,
    app: Celery,
    broker: redis_client.Redis,
    database: Database,
    send_once: Send,
    remember: Callable[[], GoBack],
    environment: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environment(SMTP_RETRIES="0")
    pop3 = sending_account(mailbox, smtp, name="no folders", protocol="pop3", sent_copies="auto")

    # Given a moment with mail that was sent, that waits, that failed, and that only one of two recipients has
    send_once(account, "sent before")
    smtp.on("mail", reply("550 not you"), times=None)
    with pytest.raises(MessageRefusedError):
        send_once(account, "failed", key="key:failed")
    smtp._rules.clear()
    smtp.on("rcpt", reply("451 not now"), where=b"carol")
    with pytest.raises(MailServerBusyError):
        send_once(account, "for two", to=["bob@example.net", "carol@example.net"])
    smtp.on("mail", reply("451 not now"), times=None)
    for sender, task in ((account, "sent after"), (account, "never sent"), (pop3, "without a folder")):
        with pytest.raises(DeliveryWaitsError):
            send_once(sender, task)
    with psycopg2.connect(libpq(database.app_url)) as session, session.cursor() as cursor:
        cursor.execute("SELECT set_config('metabuilder.tenant_id', %s, true)", (TENANT,))
        given = {"email_client_id": account.id, "user_id": USER, "to": "bob@example.net", "subject": "in SQL"}
        cursor.execute("SELECT queue_task('send_email', %s)", (json.dumps(given),))
        (in_sql,) = cursor.fetchone()
    session.close()
    # Redis counts whole seconds, and is to have run since before that moment
    wait_until(lambda: broker.info("server")["uptime_in_seconds"] >= 2, "Redis is too young")
    moment, common = database_now(), told()[-1].position
    go_back = remember()

    # When much is sent after it
    smtp._rules.clear()
    rows("UPDATE outbox_message SET next_try_at = now() WHERE state = 'queued' RETURNING 1")
    for name in ("sent after", "for two", "without a folder"):
        resume_waiting(TENANT, USER, key_id(f"task:{name}"), f"{name}:again")
    send_once(account, "failed", key="key:failed")
    send_once(account, "in SQL", key=f"task:{in_sql}")
    send_once(account, "with a key", key="key:once")
    send_once(account, "taken")
    smtp.on("mail", reply("451 not now"), times=None)
    with pytest.raises(DeliveryWaitsError):
        send_once(account, "lost")
    smtp._rules.clear()
    lost_position = told()[-1].position
    # And Redis has tasks of that time: two of mail that was sent, one that a worker had taken, and some that were not
    publish(app, "with a key", account, "another task", key="once")
    publish(app, "taken", account, "taken")
    app.tasks[SEND_WAITING].apply_async((key_id("task:lost"), TENANT, USER))
    app.tasks[SEND_WAITING].apply_async((key_id("task:sent after"), TENANT, USER))
    publish(app, "never begun", account, "never begun")
    take(broker, "taken")
    sent_until_then = sorted(smtp.taken())

    # And the database is restored to that moment, and the first settling is interrupted between PostgreSQL and Redis
    go_back()
    with monkeypatch.context() as patch:
        patch.setattr(restored, "_sort_waiting", interrupted)
        with pytest.raises(KeyboardInterrupt):
            settle(app, moment)
    found = settle(app, moment)

    assert found == {
        "searched": 3, "undecided": 1, "copies": 0, "failed": 1, "queued_in_sql": 1, "kept": 2, "aside": 3,
    }  # fmt: skip
    run_what_waits(app)
    # Then what is in the Sent folder counts as sent, and what never began is sent; all else waits for a person
    assert sorted(smtp.taken()) == sorted([*sent_until_then, "never begun"])
    assert {
        str(key).partition(":")[2]: state for key, state in rows("SELECT key, state FROM outbox_message")
    } == {
        "sent before": "sent",
        "sent after": "sent",
        "never begun": "sent",
        "failed": "failed",
        "for two": "unknown",
        "never sent": "unknown",
        "without a folder": "unknown",
    }  # fmt: skip
    assert {letter.error_code for letter in list_aside()} == {"maybe_sent"}
    assert [(letter.id, letter.error[:10]) for letter in list_not_published()] == [(in_sql, "maybe_sent")]
    # And what had failed is looked for before it is sent again
    assert send_once(account, "failed", key="key:failed").state == "sent"
    # And a second settling, with workers that have gone on, changes nothing
    assert settle(app, moment) == {**found, "kept": 0, "aside": 0}
    run_what_waits(app)
    assert sorted(smtp.taken()) == sorted([*sent_until_then, "never begun"])
    # And a person's word is done
    run = CliRunner().invoke
    monkeypatch.setattr(outbox, "connect", lambda **_: None)
    done = run(outbox.outbox, ["resend", key_id("task:never sent"), "--yes", "--tenant", TENANT])
    assert done.exit_code == 0, done.output
    [of_the_key] = [letter.id for letter in list_aside() if "another task" in str(show_aside(letter.id))]
    retry_aside(of_the_key)
    assert smtp.taken().count("never sent") == 1

    # And the application is told: of the restore, and where its position is of the time that was lost
    assert told(after=common)[0].type == "database.restored"
    assert {event.data["outbox_id"] for event in told("message.unknown", after=common)} >= {
        key_id("task:never sent"), key_id("task:for two"),
    }  # fmt: skip
    with pytest.raises(EventPositionError, match="took back"):
        events_after(TENANT, lost_position, 10)


def test_the_verb_waits_for_nobody_to_run_and_says_what_is_in_doubt(
    account: Account,
    smtp: SmtpServer,
    app: Celery,
    broker: redis_client.Redis,
    send_once: Send,
    environment: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environment(SMTP_RETRIES="0")
    monkeypatch.setattr(command, "connect", lambda **_: None)
    monkeypatch.setattr(command, "_PATIENCE_SECONDS", 0)
    smtp.on("mail", reply("451 not now"), times=None)
    with pytest.raises(DeliveryWaitsError):
        send_once(account)

    def run(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(cli.main, ["restore:settle", "--yes", *arguments])
        return done.exit_code, done.output

    # This database was never recovered, so it does not know to which moment
    code, said = run()
    assert code == 1
    assert "Name it: --moment" in said
    broker.set(TICKED, broker.time()[0] + HOUR)  # however slow this machine is
    code, said = run("--moment", "2026-01-01")
    assert code == 1
    assert "beat must not run meanwhile" in said
    assert row() == "queued"
    broker.delete(TICKED)

    code, said = run("--moment", "2026-01-01")
    assert (code, said.splitlines()) == (
        0,
        [
            "The database was restored to 2026-01-01 00:00:00 UTC",
            "1 mails that were not sent are looked for in their Sent folders, once workers run",
        ],
    )
    assert row() == "unknown"
    broker.set(TICKED, broker.time()[0] + HOUR)  # as the site goes on
    assert run()[1].splitlines()[1:] == ["This restore was dealt with before, and nothing is left to do"]
    assert json.loads(run("--json")[1])["was_done_before"] is True


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def take(broker: redis_client.Redis, task_id: str) -> None:
    """Let a worker have taken the task with this id, and have died."""
    [raw] = [one for one in broker.lrange("send", 0, -1) if json.loads(one)["headers"]["id"] == task_id]
    broker.lrem("send", 1, raw)
    broker.hset("unacked", "a-tag", f'[{raw}, "", "send"]')
    broker.zadd("unacked_index", {"a-tag": 1})
