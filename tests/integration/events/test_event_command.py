"""`event list` and `event show`, and following what comes."""

import json
import select
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from manage import event, session
from manage.cli import main
from tasks.storage.accounts.rows import Account, find_account
from tasks.storage.events import Event, events_after
from tests.conftest import TENANT, Database, sync
from tests.integration.events.test_reader import Session
from tests.support.mailbox import Mailbox, message
from tests.support.told import told


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    monkeypatch.setattr(session, "_use_the_stack", lambda **_: None)

    def run_verb(*words: str) -> str:
        done = CliRunner().invoke(main, ["event", *words, "--tenant", TENANT], env={"COLUMNS": "200"})
        assert done.exit_code == 0, done.output
        return done.output

    return run_verb


@pytest.fixture
def sessions(database: Database) -> Iterator[list[Session]]:
    opened = [Session(database.app_url) for _ in range(2)]
    yield opened
    for one in opened:
        one.connection.close()


def test_events_are_listed_and_shown(
    account: Account, mailbox: Mailbox, sessions: list[Session], run: Callable[..., str]
) -> None:
    mailbox.append([message(1)])
    sync(account)
    mailbox.append([message(2)])
    sync(find_account(TENANT, account.id))

    listed = run("list")
    assert listed.index("account.synced") < listed.index("message.created")
    created = json.loads(run("list", "--json", "--type", "message.created", "--account", "mail"))
    assert [(one["type"], one["position"]) for one in created] == [("message.created", told()[-1].position)]
    assert [one["id"] for one in json.loads(run("list", "--json", "--limit", "1"))] == [told()[-1].id]
    assert created[0]["data"]["email_message_id"] in run("show", created[0]["id"])
    assert json.loads(run("show", created[0]["id"], "--json")) == created[0]
    assert "no such events" in run("list", "--type", "account.removed")

    # An event that readers do not get yet is listed, and said to wait
    older, newer = sessions
    older.write(1)
    newer.write(2)
    newer.commit()
    waiting = run("list")
    assert "number=2" in waiting
    assert "1 of the tenant's events wait" in waiting


def test_a_follower_is_woken_and_looks_again_for_what_is_held_back(
    sessions: list[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a follower that only a notification wakes, and what happens each time that it begins to wait
    monkeypatch.setattr(event, "_SILENCE_SECONDS", 3600)
    older, newer = sessions
    older.write(1)
    newer.write(2)
    happens = [newer.commit, older.connection.rollback, lambda: (newer.write(3), newer.commit())]
    patiences: list[float] = []

    def wait(*arguments: Any) -> Any:
        happens.pop(0)()
        patiences.append(arguments[-1])
        return select.select(*arguments)

    monkeypatch.setattr(event, "select", SimpleNamespace(select=wait))
    coming = event._coming(TENANT)

    # Then an event comes for which no notification was left: what it waited for was taken back without one
    assert next(coming).data == {"number": 2}
    assert patiences == [3600, event._HELD_BACK_SECONDS]
    assert next(coming).data == {"number": 3}
    coming.close()


def test_a_follower_does_not_sleep_on_an_event_that_was_held_back_only_while_it_read(
    sessions: list[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    older, newer = sessions
    older.write(1)
    newer.write(2)
    patiences: list[float] = []

    def wait(*arguments: Any) -> Any:
        patiences.append(arguments[-1])
        if len(patiences) == 1:
            newer.commit()
        return select.select(*arguments[:-1], min(arguments[-1], event._HELD_BACK_SECONDS))

    def read(*arguments: Any) -> list[Event]:
        found = events_after(*arguments)
        if patiences:
            # What held the event back is taken back, without a notification, right after it was looked for
            older.connection.rollback()
        return found

    monkeypatch.setattr(event, "select", SimpleNamespace(select=wait))
    monkeypatch.setattr("tasks.storage.events.events_after", read)
    coming = event._coming(TENANT)
    assert next(coming).data == {"number": 2}
    assert patiences[:2] == [event._SILENCE_SECONDS, event._HELD_BACK_SECONDS]
    coming.close()
