"""The verbs of webhooks, and what beat does as soon as an event is written."""

import json
from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import text

from manage import session
from manage.cli import main
from tasks.registry import WEBHOOKS_SECONDS
from tasks.runtime.notified import HANDLERS
from tasks.runtime.notified.listener import Listener
from tasks.storage.accounts.rows import Account
from tasks.storage.events import CHANNEL
from tasks.storage.session import database_now, tenant_transaction
from tasks.storage.webhooks.endpoints import list_webhooks
from tests.conftest import TENANT, Database
from tests.integration.events.test_webhooks import REFUSED, add, later, run, write
from tests.support.application import Broker
from tests.support.receiver import ACCEPTED, Receiver
from tests.support.worker import wait_until

Verb = Callable[..., Result]


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Verb:
    monkeypatch.setattr(session, "_use_the_stack", lambda **_: None)

    def run_verb(*words: str) -> Result:
        return CliRunner().invoke(main, [*words, "--tenant", TENANT], env={"COLUMNS": "200"})

    return run_verb


def test_an_endpoint_from_its_beginning_to_its_end(receiver: Receiver, account: Account, verb: Verb) -> None:
    chosen = ("--type", "message.created", "--account", account.account_name)
    added = verb("webhook", "add", receiver.url(), *chosen, "--json")
    assert added.exit_code == 0, added.output
    made = json.loads(added.stdout)
    receiver.secrets.append(made["secret"])
    assert f"webhook test {made['id']}" in added.stderr

    # A test is signed, and its refusal says what came
    assert verb("webhook", "test", made["id"]).exit_code == 0
    (tested,) = receiver.received
    assert (tested.body["type"], tested.signed_by) == ("webhook.test", (made["secret"],))
    receiver.answer = lambda _: REFUSED
    refused = verb("webhook", "test", made["id"])
    assert (refused.exit_code, "answered 500" in refused.stderr) == (1, True)

    # What is shown, without any secret
    write(account.id, 1, 2)
    run()
    listed = verb("webhook", "list").stdout
    assert "failing since" in listed
    assert "message.created of 1 accounts" in listed
    assert json.loads(verb("webhook", "list", "--json").stdout)[0]["accounts_behind"] == 1
    shown = verb("webhook", "show", made["id"]).stdout
    assert "answered 500" in shown
    assert made["secret"] not in listed + shown + verb("webhook", "show", made["id"], "--json").stdout

    # Another secret
    receiver.answer = lambda _: ACCEPTED
    rotated = json.loads(verb("webhook", "rotate", made["id"], "--json").stdout)
    receiver.secrets.append(rotated["secret"])
    assert verb("webhook", "test", made["id"]).exit_code == 0
    assert receiver.received[-1].signed_by == tuple(receiver.secrets)
    run()
    assert receiver.numbers(account.id) == [1, 2], "the test ended the wait"
    assert "works" in verb("webhook", "list").stdout

    # Again
    since = (database_now()).strftime("%Y-%m-%d")
    assert "1 webhooks" in verb("event", "replay", "--since", since, "--endpoint", made["id"]).stderr
    run()
    assert receiver.numbers(account.id) == [1, 2, 1, 2]
    assert verb("event", "replay", "--since", since, "--endpoint", "nobody").exit_code == 1

    assert verb("webhook", "remove", made["id"], "--yes").exit_code == 0
    assert list_webhooks(TENANT) == []
    assert "no webhooks" in verb("webhook", "list").stderr


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://app.example.org/x", "https://"),
        ("https://ada:secret@app.example.org/x", "neither user"),
        ("ftp://app.example.org/x", "must be like"),
        ("https:///x", "must be like"),
        ("https://app.example.org:99999/", "ort"),
        ("https://app.example.org/a b", "printable ASCII"),
        ("https://bücher.example/", "printable ASCII"),
    ],
)
def test_what_is_no_endpoint_is_refused(database: Database, verb: Verb, url: str, says: str) -> None:
    refused = verb("webhook", "add", url)
    assert (refused.exit_code, says in refused.stderr) == (1, True), refused.output
    assert list_webhooks(TENANT) == []


def test_a_disabled_endpoint_says_so_and_is_enabled_by_a_test(receiver: Receiver, verb: Verb) -> None:
    webhook_id = add(receiver)
    receiver.answer = lambda _: (410, {})
    write("ada", 1)
    run()
    assert "it answered 410" in verb("webhook", "list").stdout
    receiver.answer = lambda _: ACCEPTED
    later(days=1)
    assert receiver.numbers("ada") == []
    assert verb("webhook", "test", webhook_id).exit_code == 0
    run()
    assert receiver.numbers("ada") == [1]


def test_delivery_is_queued_as_soon_as_an_event_is_written(receiver: Receiver, broker: Broker) -> None:
    """A sweep would come only after ten seconds: here it never does, and the notification has to."""
    (handler,) = (handler for handler in HANDLERS if handler.channel == CHANNEL)
    assert handler.sweep_seconds == WEBHOOKS_SECONDS
    handled: list[bool] = []

    def handle(app: object) -> bool:
        handled.append(handler.handle(broker.app))
        return False

    listener = Listener(broker.app, [handler._replace(handle=handle, sweep_seconds=3600.0)])
    listener.start()
    try:
        wait_until(lambda: len(handled) == 1, "it does not look without a notification")
        write("ada", 1)
        wait_until(lambda: len(handled) == 2, "it is not woken")
        assert broker.taken("webhooks") == [], "nobody is to be told"
        add(receiver)
        write("ada", 2)
        wait_until(lambda: len(handled) == 3, "it is not woken")
        write("ada", 3)
        wait_until(lambda: len(handled) == 4, "it is not woken")
        assert broker.taken("webhooks") == [[]], "one task at a time waits"
        write("ada", 4)
        wait_until(lambda: len(handled) == 5, "it is not woken")
        assert broker.taken("webhooks") == [[]]
    finally:
        listener.stop()
    with tenant_transaction(TENANT) as connection:
        assert connection.scalar(text("SELECT count(*) FROM event")) == 4
