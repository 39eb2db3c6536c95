"""A site with several servers of PostgreSQL, one of which takes over: each program finds the primary by itself."""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from sqlalchemy import text

from manage import psql
from native import stores
from native.ports import free_port
from native.postgres import APPLICATION, OWNER, WORKER, libpq
from tasks.engine.lease import leased_run
from tasks.errors import StorageUnavailableError, TransientError
from tasks.storage import migrate, session
from tasks.storage.accounts.rows import Account
from tasks.storage.dead_letters import list_letters
from tasks.storage.ids import new_id
from tasks.storage.session import get_engine, listening, tenant_transaction, wait_for_notifications
from tasks.storage.states import OutboxState
from tests.conftest import TENANT, USER, register, sync
from tests.integration.send.conftest import Send, pools, send_once, sending_account
from tests.support.exporter import running_exporter
from tests.support.failover import Pair, ask, running_pair
from tests.support.mailbox import Mailbox, message
from tests.support.packets import packets_dropped
from tests.support.programs import start
from tests.support.servers import RedisServer
from tests.support.smtp_server import SmtpServer
from tests.support.stored import rows
from tests.support.watcher import running_watcher
from tests.support.worker import Worker, wait_until

__all__ = ["pools", "send_once"]

NOWHERE = Mailbox("127.0.0.1", 9, "ada", "x")
# Ten times what the operating system and libpq need at most to notice that a host has vanished.
VANISHED_SECONDS = 10 * (session._OF_SEVERAL_SERVERS["tcp_user_timeout"] / 1000)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Each test leaves both servers running, one of them the primary and the other one its standby."""
    with running_pair(tmp_path_factory.mktemp("pair")) as pair:
        yield pair


def write() -> str:
    """A row, by a transaction that may find a lost connection in the pool. Returns its id."""
    id_ = new_id()
    with tenant_transaction(TENANT) as connection:
        connection.exec_driver_sql(
            "INSERT INTO credential (tenant_id, id, kind, ciphertext) VALUES (%s, %s, 'password', '')", (TENANT, id_)
        )
    return id_


def wait_until_lost(listener: Any) -> None:
    """Wait as beat does, until that raises StorageUnavailableError."""
    wait_until(lambda: wait_for_notifications(listener, VANISHED_SECONDS) is None, "the connection is not lost")


def server_port() -> int:
    """The port of the server that a new connection leads to."""
    with tenant_transaction(TENANT) as connection:
        return int(connection.execute(text("SELECT inet_server_port()")).scalar_one())


def test_every_program_finds_the_primary_before_and_after_a_failover(
    pair: Pair, environment: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a host that is gone, and the standby, named before the primary
    gone = free_port()
    environment(DATABASE_URL=pair.url(gone), DATABASE_OWNER_URL=pair.url(gone, role=OWNER))
    monkeypatch.setenv("DATABASE_OWNER_URL", pair.url(gone, role=OWNER))
    stored = [write()]
    for _ in range(2):
        # Then all that ask PostgreSQL are at the primary
        assert server_port() == pair.primary.port
        assert stores.postgres_answers().ok, stores.postgres_answers()
        assert stores.migrations_are_at_head().ok
        assert "migrated" not in migrate._migrate(pair.url(gone, role=OWNER))
        shown = psql._environment(TENANT, write=False)
        assert shown["PGHOST"].split(",") == ["127.0.0.1"] * 3
        assert shown["PGPORT"] == f"{gone},{pair.standby.port},{pair.primary.port}" or len(stored) > 1
        assert shown["PGTARGETSESSIONATTRS"] == "primary"
        assert psql._environment(TENANT, write=True)["PGTARGETSESSIONATTRS"] == "read-write"

        # When the primary dies, then whoever waits for notifications learns of it
        with listening("somebody") as listener:
            pair.fail_over(follow=False)
            with pytest.raises(StorageUnavailableError):
                wait_until_lost(listener)
        # And at most the first try fails of those whose sessions were open
        with suppress(StorageUnavailableError):
            stored.append(write())
        stored.append(write())
        # And the old primary, which takes connections as a standby, is not taken for one
        pair.follow()
        get_engine().dispose()
        stored.append(write())
    count = "SELECT count(*) FROM credential WHERE id = ANY('{" + ",".join(stored) + "}')"
    assert ask(pair.primary, count) == len(stored)


def test_what_is_wrong_with_each_server_is_said(pair: Pair, environment: Callable[..., None]) -> None:
    environment(DATABASE_URL=pair.url())
    pair.primary.stop()
    try:
        with pytest.raises(StorageUnavailableError) as refusal:
            write()
        said = {"a task": str(refusal.value), "health": stores.postgres_answers().detail}
    finally:
        pair.primary.start()
    for words in ("session is read-only", "Connection refused", str(pair.standby.port), str(pair.primary.port)):
        assert {who: words in told for who, told in said.items()} == {"a task": True, "health": True}, words


def test_a_host_that_vanishes_is_left_within_seconds(pair: Pair, environment: Callable[..., None]) -> None:
    environment(DATABASE_URL=pair.url())
    write()
    waits, failed = threading.Event(), threading.Event()

    def wait_for_an_answer() -> None:
        try:
            with tenant_transaction(TENANT) as connection:
                waits.set()
                connection.execute(text("SELECT pg_sleep(3600)"))
        except StorageUnavailableError:
            failed.set()

    thread = threading.Thread(target=wait_for_an_answer, daemon=True)
    vanished = pair.primary
    with listening("somebody") as listener:
        thread.start()
        wait_until(waits.is_set, "the query has not begun")
        try:
            with packets_dropped(vanished.port):
                pair.promote()
                # One who waits for an answer, one who sends, one who connects anew, and one who listens
                wait_until(failed.is_set, "who waits for an answer waits still", VANISHED_SECONDS)
                with suppress(StorageUnavailableError):
                    write()
                write()
                assert server_port() == pair.primary.port
                with pytest.raises(StorageUnavailableError):
                    wait_until_lost(listener)
        finally:
            vanished.kill()
            pair.follow()
    thread.join()


def test_the_server_that_was_the_primary_is_asked_first(pair: Pair, environment: Callable[..., None]) -> None:
    environment(DATABASE_URL=pair.url())
    write()
    with packets_dropped(pair.standby.port):
        # Each connection that went to the standby first would wait for its time-out.
        begun = time.monotonic()
        for _ in range(20):
            get_engine().dispose()
            write()
        assert time.monotonic() - begun < 20 * session._OF_SEVERAL_SERVERS["connect_timeout"]


def test_what_a_run_commits_after_a_failover_builds_on_nothing_that_may_be_missing(
    pair: Pair, environment: Callable[..., None]
) -> None:
    environment(DATABASE_URL=pair.url())
    account = register(NOWHERE)

    def run_through_a_failover() -> None:
        with leased_run(TENANT, USER, account.id, "task", time.monotonic() + 600) as run:
            with run.transaction() as connection:
                connection.execute(text("UPDATE email_client SET last_error = 'as far as this'"))
            with tenant_transaction(TENANT), tenant_transaction(TENANT):
                pass  # two connections are open, and both will be lost
            pair.fail_over()
            write()  # by a new connection, and without an error
            with run.transaction(durable=True):
                pass

    with pytest.raises(StorageUnavailableError, match="may be missing"):
        run_through_a_failover()
    # Its next run need not wait for a minute until the lease expires, and finds no further connection that is lost
    with (
        leased_run(TENANT, USER, account.id, "task", time.monotonic() + 600) as run,
        tenant_transaction(TENANT),
        run.transaction(durable=True),
    ):
        pass


@pytest.mark.parametrize("point", ["data", "accepted"])
def test_mail_that_was_on_its_way_in_a_failover_is_sent_once(
    pair: Pair, environment: Callable[..., None], send_once: Send, point: str
) -> None:
    environment(DATABASE_URL=pair.url())
    standby = threading.Thread(target=lambda: (time.sleep(2), pair.promote(), pair.follow()))

    def die() -> None:
        pair.primary.kill()
        standby.start()

    def is_sent() -> bool:
        try:
            return send_once(account, "mail").state == OutboxState.SENT
        except TransientError:
            return False

    with SmtpServer() as smtp:
        account = sending_account(NOWHERE, smtp, name=point)
        smtp.on(point, die)
        wait_until(is_sent, "it is not sent", VANISHED_SECONDS)
        assert smtp.taken() == ["mail"]
    standby.join()


def patience() -> tuple[int, int]:
    """The seconds after which a connection from the pool is given up: who waits for an answer, and who sends."""
    with get_engine().connect() as connection:
        duplicate = os.dup(connection.connection.driver_connection.fileno())  # type: ignore[union-attr]
    with socket.socket(fileno=duplicate) as found:
        idle, interval, count, sent = (
            found.getsockopt(socket.IPPROTO_TCP, option)
            for option in (
                socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT
            )
        )  # fmt: skip
    return idle + interval * count, sent // 1000


def test_one_server_is_waited_for_longer_than_each_of_several(pair: Pair, environment: Callable[..., None]) -> None:
    environment(DATABASE_URL=pair.url())
    assert patience() == (10, 10)
    environment(DATABASE_URL=pair.primary.url(WORKER))
    assert patience() == (60, 60)


def test_programs_go_on_by_themselves(
    pair: Pair, redis: RedisServer, mailbox: Mailbox, environment: Callable[..., None], tmp_path: Path
) -> None:
    # Given a site at work: worker, beat, watcher and exporter
    environment(DATABASE_URL=pair.url(), REDIS_URL=redis.url, WATCH_ENABLED="true", SYNC_LEASE_SECONDS="60")
    account = register(mailbox, name="watched")
    sync(account)
    log = tmp_path / "beat.log"
    beat = start("celery", ("-A", "tasks.celery_app:celery_app", "beat", "--pidfile=", "-l", "INFO"), log)
    try:
        with Worker(tmp_path), running_watcher(tmp_path) as watcher, running_exporter(environment) as exporter:
            wait_until(lambda: "watched" in watcher.watched(), "the mailbox is not watched")
            mailbox.append([message(1)])
            wait_until(lambda: stored(account) == 1, "mail is not stored before")

            # When the primary dies with more to do, and the other one takes over after a while
            pair.primary.kill()
            mailbox.append([message(2)])
            wait_until(lambda: exporter.get("/readyz")[0] == 503, "the exporter says that PostgreSQL is there")
            pair.promote()
            pair.follow()

            # Then all of it is done, tasks queued in SQL too
            wait_until(lambda: stored(account) == 2, "what came during the failover is not stored", 60)
            wait_until(lambda: exporter.get("/readyz")[0] == 200, "the exporter does not find PostgreSQL", 60)
            wait_until(lambda: "watched" in watcher.watched(), "the mailbox is not watched any more", 60)
            mailbox.append([message(3)])
            queue_sync_in_sql(pair, account)
            wait_until(lambda: stored(account) == 3, "what came after the failover is not stored", 60)
            wait_until(
                lambda: ask(pair.primary, "SELECT count(*) FROM queued_task") == 0, "beat publishes nothing", 60
            )
        assert list_letters() == []
    finally:
        beat.kill()
        beat.wait()
        print(log.read_text())


def stored(account: Account) -> int:
    """How many messages of the account are stored."""
    [(number,)] = rows("SELECT count(*) FROM email_message WHERE email_client_id = :id", id=account.id)
    return int(str(number))


def queue_sync_in_sql(pair: Pair, account: Account) -> None:
    """Queue a sync in a transaction of the application."""
    arguments = json.dumps({"email_client_id": account.id, "user_id": USER})
    connection = psycopg2.connect(libpq(pair.primary.url(APPLICATION)))
    with closing(connection), connection, connection.cursor() as cursor:
        cursor.execute("SELECT set_config('metabuilder.tenant_id', %s, true)", (TENANT,))
        cursor.execute("SELECT queue_task('sync_emails', %s)", (arguments,))
