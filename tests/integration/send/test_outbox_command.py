"""What a person can do about messages that wait: `./manage.sh outbox`, and `account test`."""

import json
from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result

from manage import outbox as command
from tasks.engine.send.outbox import decide
from tasks.errors import (
    DeliveryInterruptedError,
    DeliveryUnknownError,
    DeliveryWaitsError,
    MailServerBusyError,
    MailServerUnavailableError,
    MessageRefusedError,
    NotFoundError,
    NotUnknownError,
)
from tasks.storage.accounts.rows import Account
from tests.conftest import TENANT
from tests.integration.send.conftest import Send, let_it_be_due, row
from tests.support.smtp_server import SmtpServer, drop, reply
from tests.support.stored import rows


@pytest.fixture(autouse=True)
def as_the_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of the test is the stack's."""
    monkeypatch.setattr(command, "connect", lambda **_: None)


def run(*arguments: object, **options: object) -> Result:
    result = CliRunner().invoke(command.outbox, [*map(str, arguments), "--tenant", TENANT], **options)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def leave_unknown(sender: Account, smtp: SmtpServer, send_once: Send, point: str) -> str:
    smtp.on(point, drop)
    with pytest.raises(DeliveryInterruptedError):
        send_once(sender)
    return str(row("id"))


def test_unknown_and_said_to_be_sent(sender: Account, smtp: SmtpServer, send_once: Send) -> None:
    outbox_id = leave_unknown(sender, smtp, send_once, "accepted")
    assert "the message was not sent: send it now" in run("show", outbox_id).output
    run("sent", outbox_id)

    assert row() == "sent"
    assert len(smtp.messages) == 1
    # The task, tried again, has a result now
    assert send_once(sender).addresses("accepted") == ["bob@example.net"]


def test_unknown_and_said_not_to_be_sent(sender: Account, smtp: SmtpServer, send_once: Send) -> None:
    outbox_id = leave_unknown(sender, smtp, send_once, "dot")
    assert run("resend", outbox_id, input="n\n").exit_code == 1
    assert smtp.messages == []
    run("resend", outbox_id, "--yes")

    assert row() == "sent"
    assert len(smtp.messages) == 1
    with pytest.raises(NotUnknownError, match="it is sent"):
        run("resend", outbox_id, "--yes")


def test_many_are_decided_at_once_and_one_that_fails_stops_no_other(
    sender: Account, smtp: SmtpServer, send_once: Send, environment: Callable[..., None]
) -> None:
    for number in range(3):
        smtp.on("dot", drop)
        with pytest.raises(DeliveryInterruptedError):
            send_once(sender, f"task-{number}")
    environment(SMTP_RETRIES="0")
    by_hand = "UPDATE outbox_message SET next_try_at = NULL WHERE key <> 'task:task-2' RETURNING 1"
    assert len(rows(by_hand)) == 2  # the third is still being looked for
    smtp.on("rcpt", reply("550 not you"))

    assert run("resend", "--all", input="n\n").exit_code == 1
    assert smtp.messages == []
    done = run("resend", "--all", "--account", sender.account_name, "--yes")

    assert done.exit_code == 1
    assert "1 of 2 messages are dealt with" in done.output
    states = "SELECT substr(key, 6), state FROM outbox_message ORDER BY key"
    assert rows(states) == [("task-0", "failed"), ("task-1", "sent"), ("task-2", "unknown")]
    assert smtp.taken() == ["task-1"]
    assert "0 of 0 messages" in run("sent", "--all").output
    for wrong in ((), ("--all", "id"), ("id", "--account", "mail"), ("--all", "--all-tenants", "--account", "mail")):
        assert run("sent", *wrong).exit_code == 2


def test_retry_does_not_send_what_is_unknown(sender: Account, smtp: SmtpServer, send_once: Send) -> None:
    outbox_id = leave_unknown(sender, smtp, send_once, "accepted")
    for _ in range(2):
        with pytest.raises(MailServerUnavailableError):
            run("retry", outbox_id)
    with pytest.raises(DeliveryWaitsError):
        run("retry", outbox_id)
    let_it_be_due(age="2 days")
    with pytest.raises(DeliveryUnknownError):
        run("retry", outbox_id)

    assert len(smtp.messages) == 1


def test_retry_sends_what_failed(sender: Account, smtp: SmtpServer, send_once: Send) -> None:
    smtp.on("mail", reply("550 no"))
    with pytest.raises(MessageRefusedError):
        send_once(sender)
    run("retry", row("id"))

    assert row() == "sent"


def test_a_list_for_people_and_for_machines(sender: Account, smtp: SmtpServer, send_once: Send) -> None:
    smtp.on("dot", reply("451 not now"))
    with pytest.raises(MailServerBusyError):
        send_once(sender, "task-1", to=["bob@example.net", "eve@example.net"])
    send_once(sender, "task-2")

    shown = run("list").output
    assert "bob@example.net" in shown
    assert "451" in shown
    (listed,) = json.loads(run("list", "--json").stdout)
    assert (listed["state"], listed["account"]) == ("queued", "mail")
    assert [r["address"] for r in listed["recipients"]] == ["bob@example.net", "eve@example.net"]
    assert len(json.loads(run("list", "--state", "sent", "--json").stdout)) == 1


def test_only_of_the_tenant(sender: Account, smtp: SmtpServer, send_once: Send) -> None:
    outbox_id = leave_unknown(sender, smtp, send_once, "dot")

    with pytest.raises(NotFoundError):
        decide(sender._replace(tenant_id="tenant-2"), outbox_id, was_sent=True)
    assert row() == "unknown"
