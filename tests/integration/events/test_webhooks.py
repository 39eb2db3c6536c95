"""Events reach the endpoints of their tenant: signed, in order for each account, and none is lost."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import create_engine, text

from tasks.engine.webhooks.delivery import Tally, deliver
from tasks.errors import NotFoundError
from tasks.registry import DELIVER_WEBHOOKS
from tasks.runtime.turn import Turn
from tasks.storage.credentials import add_credential, key_ids
from tasks.storage.events import delete_old_events, tell
from tasks.storage.rotation import find_lost
from tasks.storage.session import database_now, tenant_transaction
from tasks.storage.states import EventType
from tasks.storage.webhooks.endpoints import (
    Endpoint,
    add_webhook,
    enable,
    find_webhook,
    list_webhooks,
    remove_webhook,
    replay,
    rotate_secret,
)
from tasks.storage.webhooks.rounds import Round, claim_webhooks, read_round
from tests.conftest import TENANT, Database
from tests.support.application import Broker
from tests.support.receiver import ACCEPTED, Answer, Received, Receiver
from tests.support.token_server import trusted
from tests.support.told import make_older, told
from tests.support.worker import wait_until

REFUSED, DOWN = (500, {}), (503, {})


def add(receiver: Receiver, path: str = "/hook", **chosen: Any) -> str:
    webhook_id, secret = add_webhook(TENANT, receiver.url(path), **chosen)
    receiver.secrets.append(secret)
    return webhook_id


def write(account: str, *numbers: int, kind: EventType = EventType.MESSAGE_CREATED, tenant: str = TENANT) -> None:
    for number in numbers:
        with tenant_transaction(tenant) as connection:
            tell(connection, tenant, account, kind, {"number": number})


class OwnTurn:
    """The turn of a run beside which there is no other."""

    def keep(self) -> bool:
        return True

    def give_up(self) -> None:
        pass


def run() -> Tally:
    """Deliver all that is due, once nothing is held back by a transaction of another test."""
    told()
    return deliver("test:run", 60, OwnTurn())


def later(**interval: float) -> None:
    """What waits for a time, or for the claim of a killed run to end, has waited for so long."""
    with tenant_transaction(TENANT) as connection:
        values = {"tenant": TENANT, "interval": timedelta(**interval)}
        for statement in (
            "UPDATE webhook SET next_try_at = next_try_at - :interval, claimed_until = claimed_until - :interval, "
            "failing_since = failing_since - :interval, old_secret_until = old_secret_until - :interval",
            "UPDATE webhook_backlog SET next_try_at = next_try_at - :interval, "
            "failing_since = failing_since - :interval",
        ):
            connection.execute(text(f"{statement} WHERE tenant_id = :tenant"), values)


def refusing(account: str, answer: Answer = REFUSED) -> Callable[[Received], Answer]:
    return lambda one: answer if one.body["email_client_id"] == account else ACCEPTED


def test_events_come_signed_in_order_and_once(receiver: Receiver, broker: Broker) -> None:
    everything = add(receiver)
    chosen = add(receiver, "/chosen", types=["message.deleted"], account_ids=["ada"])
    write("ada", 1, 2, 3)
    write("bob", 1, 2)
    write("ada", 4, kind=EventType.MESSAGE_DELETED)
    write("bob", 3, kind=EventType.MESSAGE_DELETED)
    write("somebody", 1, tenant="another")
    told()
    assert broker.run(DELIVER_WEBHOOKS) == {
        "status": "success",
        "events_accepted": 8,
        "events_failed": 0,
        "events_given_up": 0,
        "webhooks_disabled": 0,
    }
    at_hook = [one for one in receiver.received if one.path == "/hook"]
    assert [one.what for one in at_hook if one.body["email_client_id"] == "ada"] == [1, 2, 3, 4]
    assert [one.what for one in at_hook if one.body["email_client_id"] == "bob"] == [1, 2, 3]
    assert [one.what for one in receiver.received if one.path == "/chosen"] == [4]
    for one in receiver.received:
        assert one.signed_by == (receiver.secrets[0 if one.path == "/hook" else 1],)

    # What is said is the event as a reader of events_after gets it
    events = {event.id: event for event in told()}
    assert {one.id for one in at_hook} == set(events)
    for one in at_hook:
        event = events[one.id]
        assert one.body.pop("timestamp") == event.created_at.isoformat()
        assert one.body == {
            "id": event.id,
            "type": event.type,
            "tenant_id": TENANT,
            "position": event.position,
            "email_client_id": event.email_client_id,
            "data": event.data,
        }

    # Again, there is nothing; then what is new
    assert run() == Tally()
    write("ada", 5)
    assert run() == Tally(accepted=1)
    assert receiver.numbers("ada")[-1] == 5
    assert {one.id for one in list_webhooks(TENANT)} == {everything, chosen}


def test_both_secrets_are_good_while_one_is_rotated(receiver: Receiver) -> None:
    webhook_id = add(receiver)
    receiver.secrets.append(rotate_secret(TENANT, webhook_id, 24))
    write("ada", 1)
    run()
    later(hours=25)
    write("ada", 2)
    run()
    old, new = receiver.secrets
    assert [one.signed_by for one in receiver.received] == [(old, new), (new,)]

    # Only the two are kept, encrypted; and none once the endpoint is gone
    receiver.secrets.append(rotate_secret(TENANT, webhook_id, 24))
    secrets = text("SELECT key_id, ciphertext FROM credential WHERE kind = 'webhook_secret'")
    with tenant_transaction(TENANT) as connection:
        rows = connection.execute(secrets).all()
    assert [key_id for key_id, _ in rows] == key_ids() * 2
    assert not any(
        secret.removeprefix("whsec_").encode() in bytes(row[1]) for row in rows for secret in receiver.secrets
    )
    remove_webhook(TENANT, webhook_id)
    with tenant_transaction(TENANT) as connection:
        assert connection.execute(secrets).all() == []
    with pytest.raises(NotFoundError):
        find_webhook(TENANT, webhook_id)


def test_without_the_key_of_its_secret_an_endpoint_gets_its_events_later(
    receiver: Receiver, environment: Callable[..., None]
) -> None:
    key = os.environ["CREDENTIAL_ENCRYPTION_KEY"]
    add(receiver)
    environment(CREDENTIAL_ENCRYPTION_KEY=Fernet.generate_key().decode(), WEBHOOK_ALLOW_HTTP="true")
    add(receiver, "/readable")
    write("ada", 1)
    assert run() == Tally(accepted=1)
    (lost,) = find_lost()
    assert lost.accounts == [f"webhook {receiver.url()}"]
    environment(CREDENTIAL_ENCRYPTION_KEY=key)
    later(minutes=10)
    assert run() == Tally(accepted=1)
    assert [one.path for one in receiver.accepted] == ["/readable", "/hook"]


def test_nothing_is_signed_with_a_mail_password(receiver: Receiver) -> None:
    webhook_id = add(receiver)
    with tenant_transaction(TENANT) as connection:
        password = add_credential(connection, TENANT, "cGFzc3dvcmQ=")
        pointed = text("UPDATE webhook SET credential_id = :password WHERE id = :id")
        connection.execute(pointed, {"password": password, "id": webhook_id})
    write("ada", 1)
    assert run() == Tally()
    assert receiver.received == []


def test_an_endpoint_that_is_removed_while_its_round_is_read_has_none(receiver: Receiver) -> None:
    webhook_id = add(receiver)
    write("ada", 1)
    told()
    (claim,) = claim_webhooks("test:run", 1, 60)
    read: list[Round | None] = []
    reading = threading.Thread(target=lambda: read.append(read_round(claim)))
    blocked = text("SELECT EXISTS (SELECT FROM pg_locks WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid)))")
    with tenant_transaction(TENANT) as connection:
        connection.execute(text("DELETE FROM webhook WHERE id = :id"), {"id": webhook_id})
        reading.start()
        wait_until(lambda: connection.execute(blocked).scalar_one(), "the round was read past the removal")
    reading.join()
    assert read == [None]


def test_a_refused_event_holds_up_its_account_alone_and_is_left_out_after_ten_tries(receiver: Receiver) -> None:
    webhook_id = add(receiver)
    receiver.answer = refusing("ada")
    write("ada", 1, 2)
    write("bob", 1)
    assert run() == Tally(accepted=1, failed=1)
    write("bob", 2)
    write("ada", 3)
    assert run() == Tally(accepted=1)
    assert (receiver.numbers("ada"), receiver.numbers("bob")) == ([], [1, 2])
    standing = find_webhook(TENANT, webhook_id)
    assert (standing.accounts_behind, standing.last_error) == (1, None)

    # Accepted at a later try, with all that waited behind it, in order
    receiver.answer = lambda _: ACCEPTED
    later(hours=1)
    write("ada", 4)
    run()
    assert receiver.numbers("ada") == [1, 2, 3, 4]
    assert find_webhook(TENANT, webhook_id).accounts_behind == 0
    assert len({one.id for one in receiver.received if one.body["email_client_id"] == "ada"}) == 4

    # Refused for three days
    receiver.answer = lambda one: REFUSED if one.what == 5 else ACCEPTED
    write("ada", 5, 6)
    tallies = []
    for number in range(10):
        write("bob", 10 + number)
        tallies.append(run())
        later(days=2)
    assert [tally.failed for tally in tallies] == [1] * 10
    assert sum(tally.given_up for tally in tallies) == 1
    run()
    assert receiver.numbers("ada") == [1, 2, 3, 4, 6]
    standing = find_webhook(TENANT, webhook_id)
    assert (standing.given_up, standing.is_enabled, standing.accounts_behind) == (1, True, 0)


def test_a_receiver_that_is_down_gets_everything_when_it_is_back(receiver: Receiver) -> None:
    webhook_id = add(receiver)
    receiver.close()
    write("ada", 1, 2)
    write("bob", 1)
    assert run().accepted == 0
    first = find_webhook(TENANT, webhook_id)
    assert first.attempts == 1
    assert first.failing_since is not None
    assert "no connection" in (first.last_error or "")
    write("ada", 3)
    assert run() == Tally(), "it is not tried again before its time"
    later(hours=1)
    assert run().accepted == 0
    later(hours=1)
    receiver.reopen()
    assert run() == Tally(accepted=4)
    assert (receiver.numbers("ada"), receiver.numbers("bob")) == ([1, 2, 3], [1])
    standing = find_webhook(TENANT, webhook_id)
    assert (standing.attempts, standing.failing_since, standing.last_error) == (0, None, None)


@pytest.mark.parametrize("answer", [DOWN, REFUSED, (302, {"Location": "http://127.0.0.1:1/elsewhere"})])
def test_an_endpoint_that_accepts_nothing_for_days_is_disabled_and_goes_on_where_it_stopped(
    receiver: Receiver, answer: Answer
) -> None:
    failing, healthy = add(receiver), add(receiver, "/healthy")
    receiver.answer = lambda one: ACCEPTED if one.path == "/healthy" else answer
    write("ada", 1, 2)
    for _ in range(10):
        run()
        later(days=2)
    standing = find_webhook(TENANT, failing)
    assert (standing.is_enabled, standing.disabled_reason, standing.given_up) == (False, "failing", 0)
    assert len([one for one in receiver.received if one.path == "/hook"]) == 10
    run()
    (event,) = told("webhook.disabled")
    assert event.data == {"webhook_id": failing, "reason": "failing"}
    assert [one.id for one in receiver.received if one.body["type"] == "webhook.disabled"] == [event.id]
    assert find_webhook(TENANT, healthy).is_enabled

    receiver.answer = lambda _: ACCEPTED
    assert run() == Tally()
    enable(TENANT, failing)
    run()
    assert [one.what for one in receiver.accepted if one.path == "/hook" and one.what] == [1, 2]
    assert [one.path for one in receiver.received if one.path not in ("/hook", "/healthy")] == []


def test_410_disables_an_endpoint_at_once(receiver: Receiver) -> None:
    webhook_id = add(receiver)
    receiver.answer = lambda one: (410, {}) if one.what == 2 else ACCEPTED
    write("ada", 1, 2, 3)
    assert run() == Tally(accepted=1, failed=1, disabled=1)
    standing = find_webhook(TENANT, webhook_id)
    assert (standing.is_enabled, standing.disabled_reason) == (False, "gone")
    receiver.answer = lambda _: ACCEPTED
    enable(TENANT, webhook_id)
    run()
    assert receiver.numbers("ada") == [1, 2, 3]


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_obeyed_up_to_an_hour(receiver: Receiver, status: int) -> None:
    webhook_id = add(receiver)
    receiver.answer = lambda _: (status, {"Retry-After": "1800"})
    write("ada", 1)
    run()
    waits = [_wait(find_webhook(TENANT, webhook_id))]
    receiver.answer = lambda _: (status, {"Retry-After": "90000"})
    later(hours=1)
    run()
    waits.append(_wait(find_webhook(TENANT, webhook_id)))
    assert waits == [pytest.approx(1800, abs=300), pytest.approx(3600, abs=300)]
    receiver.answer = lambda _: ACCEPTED
    assert run() == Tally()
    later(hours=2)
    assert run() == Tally(accepted=1)


def _wait(standing: Endpoint) -> float:
    return (standing.next_try_at - database_now()).total_seconds()


def test_a_slow_receiver_delays_no_other(receiver: Receiver) -> None:
    add(receiver, "/slow")
    add(receiver, "/quick")
    released, quick_is_done = threading.Event(), threading.Event()

    def answer(one: Received) -> Answer:
        if one.path == "/slow":
            assert released.wait(180)
        elif one.what == 3:
            quick_is_done.set()
        return ACCEPTED

    receiver.answer = answer
    write("ada", 1)
    told()
    delivering = threading.Thread(target=deliver, args=("test:run", 60, OwnTurn()))
    delivering.start()
    try:
        wait_until(lambda: "/slow" in {one.path for one in receiver.received}, "the slow one was not told")
        write("ada", 2, 3)
        assert quick_is_done.wait(90)
        assert [one.what for one in receiver.received if one.path == "/slow"] == [1]
    finally:
        released.set()
        delivering.join()
    assert [one.what for one in receiver.accepted if one.path == "/quick"] == [1, 2, 3]


def test_slow_receivers_take_one_process_not_all(receiver: Receiver, broker: Broker) -> None:
    """A run that begins beside another ends at once, and the other delivers what is due to it."""
    add(receiver, "/slow")
    add(receiver, "/quick")
    released = threading.Event()

    def answer(one: Received) -> Answer:
        assert one.path != "/slow" or released.wait(180)
        return ACCEPTED

    receiver.answer = answer
    write("ada", 1)
    told()
    turns = [Turn(broker.app, "webhooks", f"run:{number}") for number in range(3)]
    first = threading.Thread(target=deliver, args=("run:0", 60, turns[0]))
    first.start()
    try:
        wait_until(lambda: len(receiver.accepted) == 1, "the quick one was not told")
        for number, turn in enumerate(turns[1:], 1):
            write("ada", number + 1)
            assert deliver(f"run:{number}", 60, turn) == Tally()
        wait_until(lambda: len(receiver.accepted) == 3, "the first run did not tell what the others left")
        assert first.is_alive()
    finally:
        released.set()
        first.join()
    assert [one.what for one in receiver.accepted if one.path == "/quick"] == [1, 2, 3]
    # The first run gave its turn up
    write("ada", 4)
    told()
    assert deliver("run:2", 60, turns[2]).accepted == 2


@pytest.mark.parametrize("instant", ["before it answers", "after it answered"])
def test_nothing_is_lost_or_told_under_two_ids_when_the_deliverer_is_killed(receiver: Receiver, instant: str) -> None:
    add(receiver)
    for number in range(1, 6):
        write("ada", number)
        write("bob", number)
    told()
    source = "from tasks.engine.webhooks.delivery import deliver\n"
    source += "class OwnTurn: keep, give_up = lambda self: True, lambda self: None\n"
    source += "deliver('test:killed', 60, OwnTurn())"
    for at in (1, 4, 7):
        deliverer = subprocess.Popen([sys.executable, "-c", source], cwd=Path(__file__).parents[3])
        begun = len(receiver.received)

        def answer(_: Received, at: int = begun + at, pid: int = deliverer.pid) -> Answer:
            number = len(receiver.received)
            if number > at or (number == at and instant == "before it answers"):
                os.kill(pid, signal.SIGKILL)
            return ACCEPTED

        receiver.answer = answer
        assert deliverer.wait(180) == -signal.SIGKILL
        later(minutes=10)
    receiver.answer = lambda _: ACCEPTED
    assert run().accepted > 0
    events = told("message.created")
    for account in ("ada", "bob"):
        first = list(dict.fromkeys(one.id for one in receiver.received if one.body["email_client_id"] == account))
        assert first == [event.id for event in events if event.email_client_id == account]
    assert run() == Tally()


def test_events_are_delivered_again_when_asked_for(receiver: Receiver) -> None:
    first, second = add(receiver), add(receiver, "/second")
    write("ada", 1)
    run()
    since = database_now()
    write("ada", 2, 3)
    run()
    assert replay(TENANT, since, first) == [first]
    assert run() == Tally(accepted=2)
    assert [one.what for one in receiver.received if one.path == "/hook"] == [1, 2, 3, 2, 3]
    assert len({one.id for one in receiver.received}) == 3
    assert replay(TENANT, since - timedelta(hours=1), None) == sorted((first, second))
    assert run() == Tally(accepted=6)
    assert replay(TENANT, database_now(), None) == []


def test_what_was_not_accepted_and_is_kept_no_more_is_gone_and_the_rest_comes(
    receiver: Receiver, database: Database
) -> None:
    webhook_id = add(receiver)
    receiver.answer = refusing("ada")
    write("ada", 1)
    write("bob", 1)
    run()
    receiver.close()
    write("bob", 2)
    run()
    with create_engine(database.owner_url).begin() as owner:
        make_older(owner, 10, below=10)
    assert delete_old_events(7) == 3
    receiver.reopen()
    receiver.answer = lambda _: ACCEPTED
    later(days=2)
    write("bob", 3)
    run()
    assert (receiver.numbers("ada"), receiver.numbers("bob")) == ([], [1, 3])
    assert find_webhook(TENANT, webhook_id).accounts_behind == 0


def test_over_https_the_name_is_verified_and_the_address_checked(
    database: Database, environment: Callable[..., None], tmp_path: Path
) -> None:
    authority, files = trusted(tmp_path)
    environment(SSL_CERT_FILE=str(authority))
    with Receiver(files) as receiver:
        by_name, _ = add_webhook(TENANT, receiver.url(host="localhost"))
        by_number, _ = add_webhook(TENANT, receiver.url(host="127.0.0.1"))
        write("ada", 1)
        assert run() == Tally(accepted=1, failed=1)
        assert find_webhook(TENANT, by_name).failing_since is None
        assert "certificate" in (find_webhook(TENANT, by_number).last_error or "")
        environment(MAIL_ALLOWED_NETWORKS="10.0.0.0/8")
        write("ada", 2)
        run()
        assert (find_webhook(TENANT, by_name).last_error or "").startswith("host_not_allowed")
        assert [one.what for one in receiver.received] == [1]
