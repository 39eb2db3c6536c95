"""Tasks queued in the caller's transaction (`queue_task` in SQL): published once, after the commit, or not at all."""

import inspect
import json
import os
import signal
import subprocess
import sys
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.errors
import pytest
import redis as redis_client
from kombu.exceptions import OperationalError
from redis.exceptions import ResponseError

from native.postgres import libpq
from tasks.celery_app import celery_app
from tasks.errors import NotFoundError, StorageUnavailableError
from tasks.registry import QUEUES, TASKS
from tasks.runtime.broker.clock import redis_now
from tasks.runtime.broker.scripts import put_once
from tasks.runtime.dead_letters import is_not_published, list_not_published, retry_not_published
from tasks.runtime.notified import queued_tasks as publisher
from tasks.runtime.notified.queued_tasks import publish_queued
from tasks.storage.accounts.rows import NewAccount, add_account
from tasks.storage.migrate import upgrade
from tasks.storage.queued_tasks import Claim, claimed, list_queued_tasks
from tests.conftest import TENANT, USER, Database
from tests.support.application import Broker, application
from tests.support.programs import Program, start
from tests.support.servers import PostgresServer, RedisServer
from tests.support.worker import wait_until

SPAM = {"email_id": "message", "user_id": USER}
# Says what the argument of a task may be in JSON, by the type that the task has for it.
JSON_TYPES = {"str": ["string"], "bool": ["boolean"], "list[str]": ["array"], "Sequence[str]": ["array"]}


class Application:
    """The application's session, bound to its tenant."""

    def __init__(self, url: str, tenant: str | None = TENANT) -> None:
        self._connection = psycopg2.connect(libpq(url))
        self._cursor = self._connection.cursor()
        self.tenant = tenant

    def queue(self, name: str | None, arguments: object) -> str:
        """Queue a task in the transaction that is open."""
        if self.tenant is not None:
            self._cursor.execute("SELECT set_config('metabuilder.tenant_id', %s, true)", (self.tenant,))
        self._cursor.execute("SELECT queue_task(%s, %s)", (name, json.dumps(arguments)))
        return str(self._cursor.fetchone()[0])

    def run(self, statement: str) -> list[tuple[Any, ...]]:
        self._cursor.execute(statement)
        return list(self._cursor.fetchall()) if self._cursor.description else []

    def commit(self) -> None:
        self._connection.commit()

    def roll_back(self) -> None:
        self._connection.rollback()

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def caller(database: Database) -> Iterator[Application]:
    caller = Application(database.app_url)
    yield caller
    caller.close()


@pytest.fixture
def client(redis: RedisServer) -> Iterator[redis_client.Redis]:
    with redis_client.Redis(port=redis.port, password=redis.password, decode_responses=True) as client:
        yield client


def published(client: redis_client.Redis) -> list[str]:
    """The ids of all messages on the queues, in the order of each queue."""
    return [
        json.loads(raw)["headers"]["id"]
        for queue in QUEUES
        for key in sorted(client.keys(f"{queue}*"))
        if client.type(key) == "list" and not key.endswith("wake")
        for raw in client.lrange(key, 0, -1)[::-1]
        if raw
    ]


def waiting() -> list[str]:
    return [task.id for task in list_queued_tasks(10_000)]


def account(**changes: Any) -> str:
    """An account whose mailbox is nowhere."""
    new = NewAccount("mail", "ada@example.org", "imap.example.org", 993, "tls", "ada", "sample")._replace(**changes)
    return add_account(TENANT, USER, new)


def mail(**changes: Any) -> dict[str, Any]:
    return {"email_client_id": account(), "user_id": USER, "to": ["bob@example.net"], **changes}


def test_the_function_knows_the_tasks_and_their_arguments(caller: Application) -> None:
    ((known,),) = caller.run("SELECT queueable_tasks()")

    wanted: dict[str, Any] = {}
    for row in TASKS:
        parameters = inspect.signature(celery_app.tasks[row.name].run).parameters
        if {"tenant_id", "user_id"} <= {*parameters}:
            wanted[row.function] = {name: kind(parameter) for name, parameter in parameters.items()}
    assert known == wanted


def kind(parameter: inspect.Parameter) -> dict[str, Any]:
    annotation = inspect.formatannotation(parameter.annotation).replace("collections.abc.", "")
    types = [one for part in annotation.split(" | ") if part != "None" for one in JSON_TYPES[part]]
    return {"types": types, **({"required": True} if parameter.default is parameter.empty else {})}


def test_a_committed_task_is_what_delay_queues_and_is_published_once(
    caller: Application, broker: Broker, client: redis_client.Redis
) -> None:
    arguments = mail(subject="Größe", body_text="% \\ '\n", cc=None)
    queued = caller.queue("send_email", arguments)
    assert not publish_queued(broker.app)  # nobody sees it before the commit
    caller.commit()

    assert publish_queued(broker.app)
    assert not publish_queued(broker.app)

    (raw,) = client.lrange(next(key for key in client.keys("send*") if client.type(key) == "list"), 0, -1)
    message = json.loads(raw)
    assert (message["headers"]["task"], message["headers"]["id"]) == ("email_service.tasks.send_email", queued)
    positional, named, _ = json.loads(b64decode(message["body"]))
    task = broker.app.tasks["email_service.tasks.send_email"]
    given = task.arguments(positional, named)
    assert {name: given[name] for name in arguments} == arguments
    assert given["tenant_id"] == TENANT
    assert "bob@" not in message["headers"]["argsrepr"]
    assert waiting() == []


def test_a_task_that_is_rolled_back_never_was(
    caller: Application, broker: Broker, client: redis_client.Redis
) -> None:
    caller.queue("check_spam", SPAM)
    caller.roll_back()
    assert not publish_queued(broker.app)
    assert published(client) == waiting() == []


@pytest.mark.parametrize(
    ("name", "changed", "words"),
    [
        ("periodic_sync", {}, "no task has this name"),
        (None, {}, "no task has this name"),
        ("send_email", {"to": None}, "send_email needs a to"),
        ("send_email", {"to": 3}, r"to must not be of this type \(number\)"),
        ("send_email", {"to": ["a", 3]}, "to must have texts alone"),
        ("send_email", {"attachment_ids": "one"}, r"attachment_ids must not be of this type \(string\)"),
        ("send_email", {"attachment_ids": ["a"] * 100_001}, "more than 100,000 items"),
        ("send_email", {"idempotency_key": "a\u200eb"}, "at most 251 printable characters"),
        ("send_email", {"idempotency_key": "x" * 252}, "at most 251 printable characters"),
        ("send_email", {"user_id": ""}, "needs a user_id"),
        ("send_email", {"colour": "red"}, "send_email has no argument colour"),
        ("send_email", {"tenant_id": "tenant-2"}, "not the tenant of this transaction"),
        ("send_email", {"user_id": "another"}, "no account with this email_client_id"),
        ("send_email", {"email_client_id": "another"}, "no account with this email_client_id"),
        ("check_spam", None, "needs its arguments as an object"),
        ("check_spam", [], "needs its arguments as an object"),
    ],
)
def test_a_mistake_is_an_error_where_it_is_made(
    caller: Application, name: str | None, changed: Any, words: str
) -> None:
    arguments = {**mail(), **changed} if isinstance(changed, dict) else changed
    with pytest.raises(psycopg2.errors.InvalidParameterValue, match=words) as error:
        caller.queue(name, arguments)
    assert "bob@" not in str(error.value)


def test_what_is_refused_to_a_stranger(database: Database, caller: Application) -> None:
    """An account of another tenant, a transaction without a tenant, a row that is not checked, more than a mail."""
    theirs = Application(database.app_url, tenant="tenant-2")
    nobodys = Application(database.app_url, tenant=None)
    try:
        with pytest.raises(psycopg2.errors.InvalidParameterValue, match="no account with this email_client_id"):
            theirs.queue("send_email", mail())
        with pytest.raises(psycopg2.errors.InvalidParameterValue, match="no tenant"):
            nobodys.queue("check_spam", SPAM)
    finally:
        theirs.close()
        nobodys.close()
    with pytest.raises(psycopg2.errors.ProgramLimitExceeded, match="4194304 is the most"):
        caller.queue("check_spam", {**SPAM, "email_id": "x" * 4_194_304})
    caller.roll_back()
    caller.queue("check_spam", SPAM)
    for statement in ("UPDATE queued_task SET name = 'x'", "DELETE FROM queued_task"):
        caller.run("SAVEPOINT before")
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            caller.run(statement)
        caller.run("ROLLBACK TO before")
    with pytest.raises(psycopg2.errors.InvalidParameterValue, match="no task has this name"):
        caller.run(f"INSERT INTO queued_task (tenant_id, name, arguments) VALUES ('{TENANT}', 'x', '{{}}')")


def test_a_row_that_cannot_be_published_is_kept_and_keeps_no_other_from_it(
    caller: Application, broker: Broker, client: redis_client.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = caller.queue("empty_trash", {"email_client_id": account(), "user_id": USER})
    queued = caller.queue("check_spam", SPAM)
    caller.commit()
    known = dict(publisher._NAMES)
    del known["empty_trash"]  # as a release that does not have it yet
    monkeypatch.setattr(publisher, "_NAMES", known)

    assert publish_queued(broker.app)
    assert not publish_queued(broker.app)

    assert published(client) == [queued]
    (left,) = list_queued_tasks(10)
    assert (left.id, left.user_id, left.error) == (unknown, USER, "this release does not know the task")
    (letter,) = list_not_published()
    assert (letter.tenant_id, letter.id, letter.task_name) == (TENANT, unknown, "empty_trash")
    assert is_not_published(letter)

    # When an operator has it tried again, with the release that knows it
    monkeypatch.undo()
    assert retry_not_published(letter) == unknown
    assert publish_queued(broker.app)
    assert unknown in published(client)
    with pytest.raises(NotFoundError):
        retry_not_published(letter)


DIES = """
import os, signal
from tasks.celery_app import celery_app
from tasks.runtime.notified.queued_tasks import publish_queued
from tasks.storage.migrate import upgrade
from tasks.storage.queued_tasks import Claim

Claim.delete = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
publish_queued(celery_app)
"""


def test_killed_between_publishing_and_the_commit_it_publishes_nothing_twice(
    caller: Application, broker: Broker, client: redis_client.Redis
) -> None:
    queued = [caller.queue("check_spam", SPAM) for _ in range(3)]
    caller.commit()

    killed = subprocess.run([sys.executable, "-c", DIES], check=False)

    assert killed.returncode == -signal.SIGKILL
    assert sorted(published(client)) == sorted(waiting()) == sorted(queued)
    # PostgreSQL gives the rows of a session that is gone free within a moment
    wait_until(lambda: publish_queued(broker.app), "the rows stay claimed")
    assert sorted(published(client)) == sorted(queued)
    assert waiting() == []


def test_a_commit_that_failed_publishes_nothing_twice(
    caller: Application, broker: Broker, client: redis_client.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    queued = caller.queue("check_spam", SPAM)
    caller.commit()

    def ended(claim: Claim, _: object) -> None:
        claim._connection.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")

    with monkeypatch.context() as patch:
        patch.setattr(Claim, "delete", ended)
        with pytest.raises(StorageUnavailableError):
            publish_queued(broker.app)

    assert (published(client), waiting()) == ([queued], [queued])
    wait_until(lambda: publish_queued(broker.app), "the row stays claimed")
    assert (published(client), waiting()) == ([queued], [])


def test_rows_in_the_hand_of_one_are_not_those_of_another(caller: Application, broker: Broker) -> None:
    queued = [caller.queue("check_spam", SPAM) for _ in range(3)]
    caller.commit()
    with claimed(2, 10_000) as first, claimed(10, 10_000) as second:
        assert [len(first.tasks), len(second.tasks)] == [2, 1]
        assert sorted(task.id for task in (*first.tasks, *second.tasks)) == sorted(queued)
    with claimed(10, 1) as bounded:
        assert len(bounded.tasks) == 1  # however large it is


def test_nothing_is_put_after_its_time(client: redis_client.Redis) -> None:
    now = redis_now(client)
    with pytest.raises(ResponseError, match="after their time"):
        put_once(client, "spam", "spam", ["a"], ["{}"], now - 1)
    assert client.keys("*") == []
    for _ in range(2):
        put_once(client, "spam", "spam", ["a"], ['{"a": 1}'], now + 3600)
    assert client.llen("spam") == 1


def test_without_redis_the_rows_stay(
    tmp_path: Path, caller: Application, environment: Callable[..., None], database: Database
) -> None:
    queued = caller.queue("check_spam", SPAM)
    caller.commit()
    environment(DATABASE_URL=database.worker_url, REDIS_URL="redis://127.0.0.1:1/0")
    with application() as app, pytest.raises((OperationalError, OSError, redis_client.RedisError)):
        publish_queued(app)
    assert waiting() == [queued]


@pytest.fixture
def beats(tmp_path: Path, environment: Callable[..., None]) -> Iterator[Callable[[], Program]]:
    log, running = tmp_path / "beat.log", []

    def begin() -> Program:
        running.append(
            start("celery", ("-A", "tasks.celery_app:celery_app", "beat", "--pidfile=", "-l", "INFO"), log)
        )
        return running[-1]

    yield begin
    for beat in running:
        if beat.poll() is None:
            beat.kill()
            beat.wait()
    print(log.read_text())


def test_two_beats_publish_each_row_once_over_restarts(
    tmp_path: Path, environment: Callable[..., None], beats: Callable[[], Program]
) -> None:
    """A thousand rows of one transaction; then with Redis and PostgreSQL away and back in between."""
    with PostgresServer(tmp_path / "postgres") as postgres, RedisServer(tmp_path / "redis") as broker:
        upgrade(postgres.owner_url)
        environment(DATABASE_URL=postgres.worker_url, REDIS_URL=broker.url)
        first, second = beats(), beats()
        caller = Application(postgres.app_url)
        queued = [caller.queue("check_spam", SPAM) for _ in range(1000)]
        caller.commit()

        def all_are_there() -> bool:
            with redis_client.Redis(port=broker.port, password=broker.password, decode_responses=True) as client:
                found = [json.loads(raw)["headers"]["id"] for raw in client.lrange("spam", 0, -1)]
            assert len(found) == len({*found})
            return sorted(found) == sorted(queued)

        wait_until(all_are_there, "not all are published")
        wait_until(lambda: waiting() == [], "the rows of what was published stay")  # they go after it is in Redis

        broker.stop()
        queued.append(caller.queue("check_spam", SPAM))
        caller.commit()
        broker.start()
        wait_until(all_are_there, "what was queued while Redis was away is not published")

        caller.close()
        postgres.restart()
        caller = Application(postgres.app_url)
        queued.append(caller.queue("check_spam", SPAM))
        caller.commit()
        caller.close()
        wait_until(all_are_there, "what was queued after PostgreSQL's restart is not published")

        for beat in (first, second):
            os.kill(beat.pid, signal.SIGTERM)
        assert [beat.wait(60) for beat in (first, second)] == [0, 0]
