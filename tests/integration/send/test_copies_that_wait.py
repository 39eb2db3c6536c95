"""A copy that the mailbox cannot take now waits like mail; the mail is sent, once, and its caller is told so."""

import json
from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import text

from manage import cli
from manage import outbox as command
from tasks.celery_app import send_email, send_waiting
from tasks.engine.send import notes
from tasks.engine.send.outbox import resume_waiting
from tasks.errors import DeliveryWaitsError, MailServerBusyError, PoisonedTaskError, StorageUnavailableError
from tasks.storage.accounts.rows import Account
from tasks.storage.outbox import Outgoing
from tasks.storage.session import get_engine
from tasks.storage.waiting import claim_waiting, count_waiting
from tests.conftest import TENANT, USER, Database
from tests.integration.send.conftest import Send, let_it_be_due, row, sending_account
from tests.support.mailbox import Mailbox
from tests.support.smtp_server import SmtpServer, reply
from tests.support.stored import column, rows

HOUR = 3600


@pytest.fixture
def account(database: Database, mailbox: Mailbox, smtp: SmtpServer) -> Account:
    """It files copies of what it sends in a mailbox that is away."""
    return sending_account(mailbox, smtp, sent_copies="append", port=9)


def come_back(mailbox: Mailbox) -> None:
    rows("UPDATE email_client SET port = :port RETURNING 1", port=mailbox.port)


def claim() -> list[str]:
    return [due.outbox_id for due in claim_waiting(1000, 600)]


def resume(outbox_id: object) -> Outgoing:
    found = resume_waiting(TENANT, USER, str(outbox_id), "task-of-the-copy:1")
    assert found is not None
    return found


def test_a_copy_waits_and_is_filed_once_the_mailbox_is_back(
    account: Account, mailbox: Mailbox, smtp: SmtpServer, send_once: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "connect", lambda **_: None)
    # Given a message that goes out while the mailbox is away, then who sent it is told at once
    sent = send_once(account)
    assert (sent.state, sent.addresses("accepted"), sent.waits) == ("accepted", ["bob@example.net"], True)
    # And the copy waits where it is seen, as a copy and not as mail that is not sent
    shown = CliRunner().invoke(cli.main, ["outbox", "list", "--json", "--tenant", TENANT])
    [listed] = json.loads(shown.stdout)
    assert (listed["state"], listed["attempts"], listed["last_error_code"]) == ("accepted", 1, "server_unavailable")
    assert 20 < listed["seconds_left"] <= 60
    assert listed["last_error"].startswith("no copy in the Sent folder: ")
    assert count_waiting(0).messages == 0

    # When the task is delivered again, or a task for the copy comes early, then nothing is tried before its time
    assert send_once(account).state == resume(sent.id).state == "accepted"
    assert (row("attempts"), claim()) == (1, [])
    # When its time has come and the mailbox is still away, then it waits again
    let_it_be_due()
    assert claim() == [sent.id]
    assert (resume(sent.id).state, row("attempts")) == ("accepted", 2)

    # And when the mailbox is back, then the copy is filed, and the message went out once
    come_back(mailbox)
    let_it_be_due()
    assert claim() == [sent.id]
    filed = resume(sent.id)
    assert (filed.state, filed.last_error, row("raw")) == ("sent", None, None)
    assert mailbox.uids("Sent") == [1]
    assert len(smtp.messages) == 1
    let_it_be_due()
    assert claim() == []


def test_its_pauses_grow_to_an_hour_and_end_two_days_after_the_mail_was_sent(
    account: Account, smtp: SmtpServer, send_once: Send, environment: Callable[..., None]
) -> None:
    environment(SMTP_RETRIES="0")
    # Given a message that its own server took after nearly two days
    smtp.on("dot", reply("451 4.3.0 not now"))
    with pytest.raises(DeliveryWaitsError):
        send_once(account)
    let_it_be_due("47 hours")
    sent = send_once(account)

    pauses = []
    for age in ("0 s", "20 minutes", "5 hours"):
        let_it_be_due(age)
        assert resume(sent.id).state == "accepted"
        pauses.append(float(str(row("extract(epoch FROM next_try_at - updated_at)"))))
    ages = [60, 20 * 60, HOUR]
    assert all(age * 0.49 <= pause <= age * 1.1 for age, pause in zip(ages, pauses, strict=True)), pauses
    let_it_be_due("2 days")
    given_up = resume(sent.id)

    assert (given_up.state, given_up.last_error_code, row("raw")) == ("sent", "server_unavailable", None)
    assert str(given_up.last_error).startswith("no copy in the Sent folder: ")
    assert len(smtp.messages) == 1
    assert resume(sent.id).state == "sent"


def test_the_task_ends_when_the_mail_is_sent_and_what_follows_it_begins_once(
    account: Account, mailbox: Mailbox, smtp: SmtpServer, send_once: Send
) -> None:
    smtp.on("rcpt", reply("550 5.1.1 no such user"), where=b"eve@")
    to = ["bob@example.net", "eve@example.net"]
    told = send_email.apply((account.id, TENANT, USER, to)).get()
    assert (told["status"], told["recipients_sent"]) == ("partial", 1)
    assert row("task") is None

    come_back(mailbox)
    let_it_be_due()
    assert send_waiting.apply((told["outbox_id"], TENANT, USER)).get() == told
    # What the server said of the other recipient is not forgotten over the copy
    assert "eve@example.net: 550 5.1.1 no such user" in str(row("last_error"))


def test_copies_take_no_place_of_mail_and_one_that_is_filed_lets_the_others_go(
    account: Account, mailbox: Mailbox, smtp: SmtpServer, send_once: Send, environment: Callable[..., None]
) -> None:
    environment(SMTP_RETRIES="0")
    # Given two accounts with copies that wait for one mailbox server, and a message that waits for its own
    other = sending_account(mailbox, smtp, sent_copies="append", port=9, name="other")
    copies = {send_once(one, f"{one.id}, {number}").id for one in (account, other) for number in range(3)}
    smtp.on("dot", reply("451 4.3.0 not now"))
    with pytest.raises(DeliveryWaitsError):
        send_once(account, "mail")
    [mail] = column("SELECT id FROM outbox_message WHERE state = 'queued'")
    let_it_be_due()
    rows("UPDATE outbox_message SET next_try_at = now() WHERE state = 'queued' RETURNING 1")

    # When all are due, then each account tries one copy, and the message that is due last is tried too
    tried = claim()
    assert mail in tried
    assert len(tried) == 3
    # And the first copy that is filed makes due those of all accounts at that server
    come_back(mailbox)
    copy = next(one for one in tried if one != mail)
    assert resume(copy).state == "sent"
    assert copies - {*tried} == {*claim()}


def test_a_copy_that_kills_its_workers_is_given_up_and_the_mail_is_sent(account: Account, send_once: Send) -> None:
    sent = send_once(account)
    send_waiting.quarantined(PoisonedTaskError("4 redeliveries"), sent.id, TENANT, USER)

    assert (row(), row("last_error_code"), row("raw")) == ("sent", "poisoned", None)


def test_a_person_asks_for_copies_now(
    account: Account, mailbox: Mailbox, send_once: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "connect", lambda **_: None)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(cli.main, ["outbox", *arguments, "--tenant", TENANT])

    first, second = (send_once(account, f"task-{number}").id for number in range(2))
    assert "accepted: 1 of 1 recipients; its copy is tried again in 00:0" in run("retry", first).stderr
    come_back(mailbox)
    assert "sent: 1 of 1 recipients\n" in run("retry", first).stderr
    rows("UPDATE outbox_message SET next_try_at = now() + interval '1 hour' WHERE state = 'accepted' RETURNING 1")
    assert "1 messages" in run("retry", "--all", "--state", "accepted").stderr
    assert claim() == [second]
    assert resume(second).state == "sent"
    assert mailbox.uids("Sent") == [1, 2]


def test_a_copy_of_an_account_that_is_switched_off_is_given_up(account: Account, send_once: Send) -> None:
    sent = send_once(account)
    rows("UPDATE email_client SET is_enabled = false RETURNING 1")
    let_it_be_due()

    assert (resume(sent.id).state, row("last_error_code")) == ("sent", "account_switched_off")


def test_letting_others_go_may_fail_and_the_mail_was_sent_all_the_same(
    account: Account, mailbox: Mailbox, smtp: SmtpServer, send_once: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Outgoing) -> None:
        raise StorageUnavailableError("deadlock detected")

    come_back(mailbox)
    smtp.on("dot", reply("451 4.3.0 not now"))
    with pytest.raises(MailServerBusyError):
        send_once(account)
    monkeypatch.setattr(notes, "release_waiting", fail)

    assert send_once(account).state == "sent"


@pytest.mark.parametrize(("state", "function"), [("queued", "mail"), ("accepted", "copies")])
def test_who_lets_others_go_waits_for_nobody_who_does_the_same(
    account: Account, send_once: Send, state: str, function: str
) -> None:
    send_once(account)
    rows("UPDATE outbox_message SET state = :state RETURNING 1", state=state)
    release = text(f"SELECT release_waiting_{function}(:tenant, :account)")
    values = {"tenant": TENANT, "account": account.id}
    with get_engine().begin() as first, get_engine().begin() as second:
        first.execute(release, values)
        second.execute(text("SET LOCAL lock_timeout = '2s'"))
        second.execute(release, values)
    assert row("dispatched_at = '-infinity'") is True
