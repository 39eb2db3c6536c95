"""A server that is away, or does not take mail now: it is tried for days, later and later, and by few at a time."""

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from manage import outbox as command
from tasks.celery_app import send_email, send_waiting
from tasks.engine.send.outbox import resume_waiting
from tasks.errors import (
    AccountSwitchedOffError,
    DeliveryFailedError,
    DeliveryWaitsError,
    MailServerUnavailableError,
    MessageRefusedError,
    NotFoundError,
    PoisonedTaskError,
    TransientError,
)
from tasks.mail import hosts
from tasks.storage.accounts.rows import Account, remove_account
from tasks.storage.outbox import Outgoing
from tasks.storage.waiting import claim_waiting, count_waiting
from tests.conftest import TENANT, USER, Database
from tests.integration.send.conftest import Send, let_it_be_due, row, sending_account
from tests.support.certificates import Authority
from tests.support.mailbox import Mailbox
from tests.support.smtp_server import SmtpServer, drop, reply
from tests.support.stored import column, rows

HOUR = 3600
NOWHERE = Mailbox("127.0.0.1", 9, "ada", "x")


@pytest.fixture
def at_once(send_once: Send, environment: Callable[..., None]) -> Send:
    """As `send_once`, without quick tries."""
    environment(SMTP_RETRIES="0")
    return send_once


def claim() -> list[str]:
    return [due.outbox_id for due in claim_waiting(1000, 600)]


def resume(outbox_id: object, owner: str = "task-1:again") -> Outgoing | None:
    return resume_waiting(TENANT, USER, str(outbox_id), owner)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command.outbox, [*map(str, arguments), "--tenant", TENANT])


AWAY = {
    "greets with 554": lambda smtp, patch: smtp.on("connect", reply("554 no service here"), times=None),
    "says 421": lambda smtp, patch: smtp.on("ehlo", reply("421 not now"), times=None),
    "is cut off": lambda smtp, patch: smtp.on("connect", drop, times=None),
    "takes no message now": lambda smtp, patch: smtp.on("dot", reply("452 4.3.1 disk full"), times=None),
    "has no name": lambda smtp, patch: patch.setattr(socket, "getaddrinfo", fail(socket.EAI_NONAME)),
    "SERVFAIL": lambda smtp, patch: patch.setattr(socket, "getaddrinfo", fail(socket.EAI_AGAIN)),
    "REFUSED": lambda smtp, patch: patch.setattr(socket, "getaddrinfo", fail(socket.EAI_FAIL)),
    "no network": lambda smtp, patch: patch.setattr(hosts, "resolve", unreachable),
}


def fail(code: int) -> Callable[..., None]:
    def look_up(*_: object, **__: object) -> None:
        raise socket.gaierror(code, "no")

    return look_up


def unreachable(*_: object) -> None:
    raise OSError(101, "Network is unreachable")


@pytest.mark.parametrize("kind", AWAY)
def test_what_is_no_refusal_waits_and_goes_out_later(
    sender: Account, smtp: SmtpServer, at_once: Send, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    with monkeypatch.context() as patch:
        AWAY[kind](smtp, patch)
        with pytest.raises(DeliveryWaitsError):
            at_once(sender)
    assert (row(), row("dispatched_at")) == ("queued", None)

    smtp._rules.clear()
    let_it_be_due()
    [outbox_id] = claim()
    assert resume(outbox_id).state == "sent"  # type: ignore[union-attr]
    assert len(smtp.messages) == 1


def test_a_certificate_that_cannot_be_trusted_waits_as_well(
    database: Database, at_once: Send, tmp_path: Path
) -> None:
    certificate = Authority(tmp_path).issue("server", "127.0.0.1")  # of an authority that nobody knows
    with SmtpServer(tls=certificate, implicit_tls=True) as smtp:
        account = sending_account(NOWHERE, smtp, smtp_encryption="tls")
        with pytest.raises(DeliveryWaitsError, match="certificate cannot be trusted"):
            at_once(account)
    assert (row(), row("last_error_code")) == ("queued", "certificate_invalid")


def test_pauses_grow_to_an_hour_and_end_after_two_days(
    sender: Account, smtp: SmtpServer, at_once: Send, caplog: pytest.LogCaptureFixture
) -> None:
    smtp.on("mail", reply("451 4.3.0 not now"), times=None)
    with pytest.raises(DeliveryWaitsError):
        at_once(sender)
    outbox_id, pauses = row("id"), []
    for age in ("0 s", "5 minutes", "20 minutes", "1 hour", "5 hours"):
        let_it_be_due(age)
        with pytest.raises(DeliveryWaitsError):
            resume(outbox_id)
        pauses.append(float(str(row("extract(epoch FROM next_try_at - updated_at)"))))

    # Each is half of what it has been tried for to all of it, from a minute to an hour
    ages = [60, 5 * 60, 25 * 60, HOUR, HOUR]
    assert all(age * 0.49 <= pause <= age * 1.1 for age, pause in zip(ages, pauses, strict=True)), pauses
    assert [record.message for record in caplog.records if "not sent for 6.4 h" in record.message]
    let_it_be_due("2 days")
    with pytest.raises(DeliveryFailedError, match="not now"):
        resume(outbox_id)
    assert row() == "failed"
    assert resume(outbox_id) is None  # a task that was queued twice tells nothing new


def test_the_first_tries_are_quick_and_the_tasks_own(sender: Account, smtp: SmtpServer, send_once: Send) -> None:
    smtp.on("mail", reply("451 4.3.0 not now"), times=None)
    for _ in range(2):
        with pytest.raises(TransientError) as again:
            send_once(sender)
        assert 2 <= (again.value.retry_after or 0) <= 5
    assert claim() == []
    with pytest.raises(DeliveryWaitsError) as waits:
        send_once(sender)
    assert waits.value.waiting["outbox_id"] == row("id")
    # Others of the account have no quick tries while one waits, for another reason than its own
    rows("UPDATE outbox_message SET last_error_code = 'server_unavailable' RETURNING 1")
    with pytest.raises(DeliveryWaitsError):
        send_once(sender, "task-2")


def test_asked_for_again_it_is_not_tried_before_its_time(sender: Account, smtp: SmtpServer, at_once: Send) -> None:
    smtp.on("mail", reply("451 4.3.0 not now"))
    smtp.on("mail", reply("451 4.3.0 not now"))
    with pytest.raises(DeliveryWaitsError):
        at_once(sender, "task-1", key="key:1", subject="once")
    with pytest.raises(DeliveryWaitsError):
        at_once(sender, "task-2", key="key:1", subject="once")
    assert (smtp.messages, row("attempts")) == ([], 1)
    with pytest.raises(DeliveryWaitsError):
        resume(row("id"))
    assert row("attempts") == 1

    let_it_be_due()
    assert at_once(sender, "task-3", key="key:1", subject="once").state == "sent"
    assert len(smtp.messages) == 1


def test_a_dead_server_is_tried_by_few_and_its_first_success_lets_all_go(
    database: Database, smtp: SmtpServer, at_once: Send
) -> None:
    # Given twenty accounts with two messages each, and a server that is away
    smtp.on("connect", drop, times=None)
    accounts = [sending_account(NOWHERE, smtp, name=f"mail {number}") for number in range(20)]
    for account in accounts:
        for number in range(2):
            with pytest.raises(DeliveryWaitsError):
                at_once(account, f"{account.account_name}, {number}")
    assert count_waiting(0)[:2] == (40, 40)
    assert count_waiting(HOUR)[:2] == (40, 0)

    # When all are due, then five accounts try one each, and nobody else while these are under way
    let_it_be_due()
    tried = claim()
    assert len(tried) == 5
    assert claim() == []
    for outbox_id in tried[1:]:
        with pytest.raises(DeliveryWaitsError):
            resume(outbox_id)
    assert len(claim()) == 4

    # And one that goes out makes due all that could not reach the server
    smtp._rules.clear()
    assert resume(tried[0]).state == "sent"  # type: ignore[union-attr]
    rest = [*claim(), *tried[1:]]
    assert len(set(rest)) >= 35


def test_what_a_server_does_not_take_of_one_message_is_not_tried_at_each_success(
    sender: Account, smtp: SmtpServer, at_once: Send
) -> None:
    smtp.on("rcpt", reply("450 4.2.2 mailbox full"), where=b"full@", times=None)
    smtp.on("connect", drop)
    with pytest.raises(DeliveryWaitsError):
        at_once(sender, "away")
    with pytest.raises(DeliveryWaitsError):
        at_once(sender, "full", to=["full@example.net"])
    rows("UPDATE outbox_message SET next_try_at = now() WHERE last_error_code <> 'server_busy' RETURNING 1")

    [outbox_id] = claim()
    assert resume(outbox_id).state == "sent"  # type: ignore[union-attr]
    assert claim() == []


def test_a_task_that_was_lost_is_missed(sender: Account, smtp: SmtpServer, send_once: Send) -> None:
    # Given a worker that was killed while it sent, and a Redis that lost its task
    smtp.on("mail", drop, times=None)
    with pytest.raises(MailServerUnavailableError):
        send_once(sender)
    rows("UPDATE outbox_message SET state = 'sending', next_try_at = now() RETURNING 1")
    assert claim() == []
    rows("UPDATE outbox_message SET dispatched_at = now() - interval '11 minutes' RETURNING 1")
    smtp._rules.clear()

    [outbox_id] = claim()
    assert resume(outbox_id).state == "sent"  # type: ignore[union-attr]


def test_an_account_switched_off_or_removed_meanwhile_sends_nothing(
    sender: Account, smtp: SmtpServer, at_once: Send
) -> None:
    smtp.on("mail", reply("451 4.3.0 not now"))
    smtp.on("mail", reply("451 4.3.0 not now"))
    with pytest.raises(DeliveryWaitsError):
        at_once(sender)
    outbox_id = row("id")
    let_it_be_due()
    rows("UPDATE email_client SET is_enabled = false RETURNING 1")
    with pytest.raises(AccountSwitchedOffError):
        resume(outbox_id)
    assert (row(), row("last_error_code")) == ("failed", "account_switched_off")

    remove_account(sender)
    with pytest.raises(NotFoundError):
        resume(outbox_id)
    assert (claim(), smtp.messages) == ([], [])


def test_all_are_tried_again_at_once_and_it_is_said_which(
    sender: Account, smtp: SmtpServer, at_once: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "connect", lambda **_: None)
    other = sending_account(NOWHERE, smtp, name="other")
    smtp.on("rcpt", reply("550 5.1.1 no such user"), where=b"eve@")
    with pytest.raises(MessageRefusedError):
        at_once(sender, "refused", to=["eve@example.net"])
    smtp.on("dot", reply("451 4.3.0 not now"), times=2)
    for number, account in enumerate((sender, other)):
        with pytest.raises(DeliveryWaitsError):
            at_once(account, f"waits {number}")

    listed = {one["state"]: one for one in json.loads(run("list", "--json").stdout)}
    assert listed["queued"]["seconds_left"] > 0
    assert listed["queued"]["last_error_code"] == "server_busy"
    assert "have waited" not in run("list").output
    let_it_be_due("5 hours")
    assert "2 messages have waited for more than 4 h" in run("list").output
    rows("UPDATE outbox_message SET next_try_at = now() + interval '1 hour' RETURNING 1")
    assert len(json.loads(run("retry", "--all", "--dry-run", "--json").stdout)["would_retry"]) == 3
    assert (
        len(json.loads(run("retry", "--all", "--dry-run", "--state", "failed", "--json").stdout)["would_retry"]) == 1
    )
    assert claim() == []
    assert len(json.loads(run("retry", "--all", "--account", "other", "--json").stdout)["retried"]) == 1
    assert "2 messages" in run("retry", "--all", "--account", "mail").output
    assert run("retry").exit_code == run("retry", "--all", row_ids()[0]).exit_code == 2

    for outbox_id in claim():
        assert resume(outbox_id).state == "sent"  # type: ignore[union-attr]
    assert sorted(smtp.taken()) == ["refused", "waits 0", "waits 1"]
    assert column("SELECT DISTINCT state FROM outbox_message") == ["sent"]


def row_ids() -> list[object]:
    return column("SELECT id FROM outbox_message")


def test_a_message_that_kills_its_workers_is_given_up_and_said(
    sender: Account, smtp: SmtpServer, at_once: Send
) -> None:
    smtp.on("mail", reply("451 4.3.0 not now"), times=None)
    error = PoisonedTaskError("4 redeliveries")
    with pytest.raises(DeliveryWaitsError):
        at_once(sender, key="key:1")
    send_waiting.quarantined(error, str(row("id")), TENANT, USER)
    assert (row(), row("last_error_code")) == ("failed", "poisoned")

    with pytest.raises(DeliveryWaitsError):
        at_once(sender, key="key:1")
    send_email.quarantined(error, sender.id, TENANT, USER, "bob@example.net", idempotency_key="1")
    assert (row(), row("last_error_code")) == ("failed", "poisoned")
    let_it_be_due()
    assert claim() == []
