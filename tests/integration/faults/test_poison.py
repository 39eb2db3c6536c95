"""Tasks that fail for good, and tasks that kill their worker: in the end each is a dead letter, once."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from billiard.einfo import ExceptionInfo
from click.testing import CliRunner
from sqlalchemy import create_engine, text

from manage import cli, dlq, session
from manage.advice import advice_for_code
from native.dovecot import Dovecot
from tasks.registry import PERIODIC_SYNC
from tasks.runtime import redeliveries
from tasks.storage.accounts.rows import find_account
from tasks.storage.dead_letters import NOBODY, get_letter, list_letters, open_arguments
from tests.conftest import TENANT, USER, Database, register
from tests.integration.faults.conftest import SHORT_WAITS, Queue, broker
from tests.support import fault_app
from tests.support.application import application
from tests.support.mailbox import Mailbox, message
from tests.support.servers import RedisServer
from tests.support.stored import column
from tests.support.worker import Worker, wait_until

SECRET = "the words of a mail"


@pytest.fixture
def short_limits(redis: RedisServer, database: Database, environment: Callable[..., None]) -> None:
    """The environment of the worker."""
    limits = {"TASK_TIMEOUT": "6", "CELERY_TASK_SOFT_TIME_LIMIT": "4", "TASK_MAX_REDELIVERIES": "3"}
    environment(REDIS_URL=redis.url, **{**SHORT_WAITS, **limits})


@pytest.fixture
def worker(short_limits: None, tmp_path: Path) -> Iterator[Worker]:
    with Worker(tmp_path, app="tests.support.fault_app:app") as worker:
        yield worker


@pytest.fixture
def send(worker: Worker, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Queues the task that fails as it is told to."""
    with application(fault_app):
        yield lambda what, **options: fault_app.fault.apply_async(
            (TENANT, USER, str(tmp_path), what, SECRET), queue="sync", **options
        )


def wait_for_letters(count: int, seconds: float = 60) -> list[Any]:
    wait_until(lambda: len(list_letters()) == count, f"there are no {count} dead letters", seconds)
    return list_letters()


@pytest.mark.parametrize(("what", "seconds"), [("die", 120), ("hang", 240)])
def test_a_task_that_kills_its_worker_is_quarantined_after_three_redeliveries(
    send: Callable[..., Any], worker: Worker, tmp_path: Path, what: str, seconds: float
) -> None:
    send(what)

    [letter] = wait_for_letters(1, seconds)

    assert letter.error_code == "poisoned"
    assert fault_app.runs(tmp_path) == 4
    # It stays so under another id, without killing anybody.
    children = worker.children()
    again = send(what)
    with pytest.raises(Exception, match="keeps killing its worker"):
        again.get(timeout=60)
    assert fault_app.runs(tmp_path) == 4
    assert worker.children() == children
    wait_until(lambda: list_letters()[0].attempts == 2, "the second failure is not kept")


def test_finding_somebody_else_at_it_does_not_acquit_a_task(send: Callable[..., Any], tmp_path: Path) -> None:
    # As a sync does that finds the lease of the run that was killed.
    send("look again and die")

    [letter] = wait_for_letters(1, 120)

    assert letter.error_code == "poisoned"
    assert fault_app.deaths(tmp_path) == 4


def test_a_task_that_gets_on_is_not_stopped_however_often_its_worker_dies(
    send: Callable[..., Any], tmp_path: Path
) -> None:
    assert send("get on and die").get(timeout=180) == "done"

    assert fault_app.deaths(tmp_path) == 6
    assert list_letters() == []


@pytest.mark.parametrize("protocol", ["imap", "pop3"])
def test_a_message_that_kills_its_worker_is_set_aside_and_the_others_come(
    short_waits: None,
    mailbox: Mailbox,
    dovecot: Dovecot,
    environment: Callable[..., None],
    tmp_path: Path,
    protocol: str,
) -> None:
    # Given a lease that outlives the worker's child, as leases do
    environment(TASK_MAX_REDELIVERIES="3", SYNC_LEASE_SECONDS="6")
    mailbox.append([message(1), message(2, subject="deadly"), message(3)])
    port = dovecot.pop3_port if protocol == "pop3" else dovecot.port
    account = register(mailbox, protocol=protocol, port=port)
    queue = Queue()
    with Worker(tmp_path, app="tests.support.deadly_app:app") as worker:
        result = queue.sync(account).get(timeout=90)
        log = worker.log.read_text()
    queue.close()

    assert (result["messages_synced"], result["messages_quarantined"]) == (2, 1)
    assert column("SELECT reason FROM raw_quarantine") == ["parser_failed"]
    assert log.count("exited with 'signal 9 (SIGKILL)'") == 1
    assert list_letters() == []


def test_what_a_worker_that_stops_gives_back_has_killed_nobody(short_limits: None, tmp_path: Path) -> None:
    # Given six times the same to do, held by a worker until their time comes
    with (
        Worker(tmp_path, concurrency=4, app="tests.support.fault_app:app") as worker,
        application(fault_app),
    ):
        given = (TENANT, USER, str(tmp_path), "slow", SECRET)
        tasks = [fault_app.fault.apply_async(given, queue="sync", countdown=4) for _ in range(6)]
        wait_until(lambda: worker.log.read_text().count("] received") == 6, "it does not hold them")

        # When it is stopped and started, so that all are redelivered at once
        os.kill(worker.pid, signal.SIGTERM)
        worker.wait(20)
        assert "Restoring 6 unacknowledged" in worker.log.read_text()
        worker.start()

        # Then each is done, and none is called poison
        assert [task.get(timeout=60) for task in tasks] == ["done"] * 6
    assert list_letters() == []


def test_progress_does_not_hide_a_letter_from_the_success_that_clears_it(short_limits: None) -> None:
    with application(fault_app) as app:
        redeliveries.begin(app, "key", "one", is_redelivered=True)
        redeliveries.begin(app, "key", "one", is_redelivered=True)
        redeliveries.begin(app, "key", "other", is_redelivered=True)
        redeliveries.note_dead_letter(app, "key")
        assert redeliveries.begin(app, "key", "third", is_redelivered=False) == redeliveries.History(2, True)
        redeliveries.note_survival(app, "key", "one")
        assert redeliveries.begin(app, "key", "third", is_redelivered=False) == redeliveries.History(1, True)
        redeliveries.note_progress(app, "key")
        assert redeliveries.begin(app, "key", "third", is_redelivered=False) == redeliveries.History(0, True)
        redeliveries.forget(app, "key")
        assert redeliveries.begin(app, "key", "third", is_redelivered=False) == redeliveries.History()


def test_a_task_that_fails_for_good_is_kept_without_anybodys_mail(
    send: Callable[..., Any], database: Database, tmp_path: Path
) -> None:
    with pytest.raises(Exception, match="It is wrong"):
        send("fail").get(timeout=60)

    [found] = wait_for_letters(1)
    letter = get_letter(found.tenant_id, found.id)

    assert (letter.tenant_id, letter.user_id, letter.task_name) == (TENANT, USER, "test.fault")
    assert (letter.error_code, letter.attempts) == ("wrong", 1)
    assert "WrongError" in letter.traceback
    assert letter.shown_arguments["args"][:3] == [TENANT, USER, str(tmp_path)]
    # In no column of no table.
    with create_engine(database.owner_url).connect() as connection:
        for table in ("dead_letter", "credential"):
            everything = str(connection.execute(text(f"SELECT t::text FROM {table} AS t")).all())
            assert "ann@" not in everything
            if table == "credential":
                assert SECRET not in everything
    assert SECRET not in str(letter.shown_arguments)
    assert open_arguments(letter)[0][4] == SECRET


def test_a_task_without_enough_memory_leaves_its_worker_alone(send: Callable[..., Any], worker: Worker) -> None:
    children = worker.children()
    with pytest.raises(Exception, match="not enough memory"):
        send("memory").get(timeout=60)
    assert [letter.error_code for letter in wait_for_letters(1)] == ["out_of_memory"]
    assert worker.children() == children


def test_a_success_of_the_same_thing_clears_the_letter(send: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(Exception, match="It is wrong"):
        send("fail").get(timeout=60)
    wait_for_letters(1)
    (tmp_path / "mended").touch()

    assert send("fail").get(timeout=60) == "done"

    assert list_letters() == []


@pytest.fixture
def manage(send: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The command line, on the servers of the test."""
    monkeypatch.setattr(dlq, "connect", lambda broker=False: None)
    assert session.connect is not dlq.connect

    def run(*arguments: str, **options: Any) -> Any:
        return CliRunner().invoke(cli.main, ["dlq", *arguments], **options)

    return run


def test_the_operator_lists_shows_retries_and_drops(
    send: Callable[..., Any], manage: Callable[..., Any], tmp_path: Path
) -> None:
    sent = send("die")
    wait_for_letters(1)
    with pytest.raises(Exception, match="It is wrong"):
        send("fail").get(timeout=60)
    wait_for_letters(2)

    listed = json.loads(manage("list", "--json").stdout)
    assert [letter["error_code"] for letter in listed] == ["poisoned", "wrong"]
    assert [x["error_code"] for x in json.loads(manage("list", "--code", "wrong", "--json").stdout)] == ["wrong"]
    assert json.loads(manage("list", "--tenant", "nobody", "--json").stdout) == []
    assert "poisoned" in manage("list", "--task", "fault").stdout
    shown = json.loads(manage("show", listed[0]["id"], "--json").stdout)
    assert shown["task_id"] == sent.id
    assert SECRET not in manage("show", listed[1]["id"]).stdout
    assert "WrongError" in manage("show", listed[1]["id"]).stdout

    # Mended, both succeed, each under its own id, and leave the dead letters.
    (tmp_path / "mended").touch()
    retried = json.loads(manage("retry", "--all", "--json").stdout)
    assert retried["task_ids"][0] == sent.id
    wait_for_letters(0)
    # Its result was the failure, until now.
    wait_until(lambda: fault_app.app.AsyncResult(sent.id).result == "done", "the result is not stored")

    (tmp_path / "mended").unlink()
    with pytest.raises(Exception, match="It is wrong"):
        send("fail").get(timeout=60)
    [letter] = wait_for_letters(1)
    assert manage("drop", letter.id, input="n\n").exit_code == 1
    assert manage("drop", letter.id, "--yes").exit_code == 0
    assert list_letters() == []


@pytest.mark.parametrize("is_of_an_earlier_release", [False, True])
def test_one_that_failed_before_it_began_is_cleared_when_its_retry_succeeds(
    manage: Callable[..., Any],
    database: Database,
    redis: RedisServer,
    tmp_path: Path,
    is_of_an_earlier_release: bool,
) -> None:
    # Given two messages with the same words, which failed outside the task: Celery says so without a request
    for task_id in ("one", "other"):
        try:
            raise fault_app.WrongError("it did not begin")
        except fault_app.WrongError:
            error = ExceptionInfo()
        args = (TENANT, USER, str(tmp_path), 1)
        fault_app.count.on_failure(fault_app.WrongError("it did not begin"), task_id, args, {}, error)
    assert len(wait_for_letters(2)) == 2
    if is_of_an_earlier_release:
        with create_engine(database.owner_url).begin() as connection:
            connection.execute(text("UPDATE dead_letter SET task_key = 'of no task ' || task_id"))
        with broker(redis) as client:
            client.delete(*client.keys("metabuilder:dead:*"))

    retried = json.loads(manage("retry", "--all", "--json").stdout)

    assert sorted(retried["task_ids"]) == ["one", "other"]
    wait_for_letters(0, 10)
    assert len(list(tmp_path.glob("done-1-*"))) == 2


def test_wrong_usage_is_said(manage: Callable[..., Any]) -> None:
    assert manage("retry").exit_code == 2
    assert manage("drop", "id", "--all").exit_code == 2
    unknown = manage("show", "no-such-id")
    assert unknown.exit_code == 1
    assert "Not found" in unknown.stderr


def test_a_quarantined_sync_says_so_on_its_account(
    worker: Worker, mailbox: Mailbox, redis: RedisServer, database: Database
) -> None:
    account = register(mailbox)
    queue = Queue()
    # Given four redeliveries under another id, and whatever way the arguments are written
    whole = {"email_client_id": account.id, "tenant_id": TENANT, "user_id": USER}
    key = redeliveries.task_key(
        "email_service.tasks.sync_emails", {**whole, "folder_id": None, "force_full_sync": False}
    )
    with broker(redis) as client:
        client.hset(f"metabuilder:redeliveries:{key}", "id", 4)

    with pytest.raises(Exception, match="keeps killing its worker"):
        queue.sync(account).get(timeout=60)
    queue.close()

    after = find_account(TENANT, "mail")
    assert after.last_error_code == "poisoned"
    assert "dlq" in str(advice_for_code(after.last_error_code))


def test_the_tasks_of_nobody_are_kept_under_a_name_that_is_no_tenants(database: Database, worker: Worker) -> None:
    # The database is gone for the dispatcher only.
    with create_engine(database.owner_url).begin() as connection:
        connection.execute(text("ALTER FUNCTION claim_due_accounts RENAME TO hidden"))
    with application() as app, pytest.raises(Exception, match="claim_due_accounts"):
        app.tasks[PERIODIC_SYNC].apply_async().get(timeout=60)
    assert [letter.tenant_id for letter in wait_for_letters(1)] == [NOBODY]
