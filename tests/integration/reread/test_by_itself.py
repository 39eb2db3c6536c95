"""After an upgrade all that older parsers read is read again without a command, once an account and parser."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event

from tasks.errors import NotFoundError
from tasks.mail.message import PARSER_VERSION
from tasks.registry import QUEUE_REREADING
from tasks.reread import reread_messages
from tasks.storage import session
from tasks.storage.accounts.rows import Account
from tasks.storage.messages import rereading
from tests.conftest import TENANT, USER, Database, register, sync
from tests.integration.reread.conftest import a_day_later, a_new_release, as_owner, outcomes, reread
from tests.support.application import application
from tests.support.mailbox import Mailbox, message
from tests.support.servers import RedisServer
from tests.support.stored import column


@pytest.fixture
def look(redis: RedisServer, environment: Callable[..., None]) -> Iterator[Callable[[], int]]:
    """Runs the dispatcher as a worker does, and says for how many accounts it queued the task."""
    environment(REDIS_URL=redis.url)
    with application() as app:
        yield lambda: app.tasks[QUEUE_REREADING].apply().result["accounts"]


@pytest.fixture
def upgraded(account: Account, mailbox: Mailbox, misread: Callable[..., None], database: Database) -> Account:
    """An account with five messages that the parser of the release before read."""
    mailbox.append(message(n) for n in range(1, 6))
    sync(account)
    misread()
    a_new_release(database)
    return account


def read_by_older_parsers() -> int:
    (number,) = column(f"SELECT count(*) FROM email_message WHERE parser_version < {PARSER_VERSION}")
    return int(number)


@contextmanager
def statements(about: str) -> Iterator[list[str]]:
    """The statements that name a table, as they are sent."""
    seen: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if about in statement:
            seen.append(statement)

    engine = session.get_engine()
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", note)


def test_after_an_upgrade_all_is_read_again_without_a_command(upgraded: Account, look: Callable[[], int]) -> None:
    assert look() == 1
    assert reread_messages.run(upgraded.id, TENANT, USER)["messages_read"] == 5
    assert read_by_older_parsers() == 0
    assert look() == 0


def test_nothing_where_that_is_switched_off(
    upgraded: Account, look: Callable[[], int], environment: Callable[..., None]
) -> None:
    environment(REREAD_AUTOMATICALLY="false")
    assert look() == 0
    assert reread(upgraded).read == 0
    assert outcomes() == {}
    # and what is asked for is read still
    rereading.ask(upgraded, PARSER_VERSION)
    assert look() == 1
    assert reread(upgraded).read == 5


def test_an_account_where_nothing_is_old_is_looked_through_once(
    account: Account, mailbox: Mailbox, misread: Callable[..., None], database: Database, look: Callable[[], int]
) -> None:
    mailbox.append(message(n) for n in range(1, 6))
    sync(account)
    misread("false")
    a_new_release(database)
    assert look() == 1
    with statements("INSERT INTO rereading") as first:
        assert reread(account).read == 0
    assert len(first) == 1
    assert look() == 0
    with statements("INSERT INTO rereading") as later:
        assert reread(account).read == 0
    assert later == []


def test_an_account_that_is_new_is_not_looked_through(account: Account, look: Callable[[], int]) -> None:
    assert look() == 0


def test_what_a_worker_of_the_release_before_stores_meanwhile_is_read_again_a_day_later(
    upgraded: Account, mailbox: Mailbox, misread: Callable[..., None], database: Database, look: Callable[[], int]
) -> None:
    assert reread(upgraded).read == 5
    misread("imap_uid > 3")
    assert look() == 0
    a_day_later(database)
    assert look() == 1
    assert reread(upgraded).read == 2
    # and that was the last time
    assert look() == 0
    assert column("SELECT reread_again_at FROM email_client") == [None]


def test_also_in_an_account_that_was_added_meanwhile(
    mailbox: Mailbox, misread: Callable[..., None], database: Database, look: Callable[[], int]
) -> None:
    account = register(mailbox)
    mailbox.append([message(1)])
    sync(account)
    misread()
    assert look() == 0
    a_day_later(database)
    assert look() == 1
    assert reread(account).read == 1


@pytest.mark.parametrize("how", ["is_enabled = false", "is_sync_enabled = false", "paused_at = now()"])
def test_an_account_that_is_paused_or_switched_off_waits_until_it_is_not(
    upgraded: Account, database: Database, look: Callable[[], int], how: str
) -> None:
    as_owner(database, f"UPDATE email_client SET {how}")
    assert look() == 0
    assert outcomes() == {}
    as_owner(database, "UPDATE email_client SET is_enabled = true, is_sync_enabled = true, paused_at = NULL")
    assert look() == 1
    assert reread(upgraded).read == 5


def test_a_task_that_was_killed_while_it_asked_asks_anew(
    upgraded: Account, look: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = rereading.ask

    def die_after(*arguments: Any) -> None:
        ask(*arguments)
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(rereading, "ask", die_after)
        with pytest.raises(SystemExit):
            reread(upgraded)
    assert column("SELECT reread_version FROM email_client") == [1]
    assert look() == 1
    assert reread(upgraded).read == 5
    assert look() == 0


def test_what_is_gone_is_not_asked_for_again(upgraded: Account, mailbox: Mailbox, database: Database) -> None:
    mailbox.expunge("1:2")
    done = reread(upgraded)
    assert (done.read, done.gone) == (3, 2)
    a_day_later(database)
    assert reread(upgraded).gone == 0


def test_an_older_release_that_comes_back_changes_nothing(
    upgraded: Account, look: Callable[[], int], database: Database
) -> None:
    as_owner(database, f"UPDATE email_client SET reread_version = {PARSER_VERSION + 1}")
    assert look() == 0
    assert reread(upgraded).read == 0


def test_somebody_elses_account_is_not_found(upgraded: Account) -> None:
    for tenant, user in ((TENANT, "user-2"), ("tenant-2", USER)):
        with pytest.raises(NotFoundError):
            rereading.ask_for_older(tenant, user, upgraded.id)
    assert outcomes() == {}
