"""How much mail waits, of whom and for how long: said by `health`, `outbox` for all tenants, and `account remove`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import native.environment
from manage import account as account_command
from manage import cli
from manage import outbox as outbox_command
from native import health, stores
from native.check import Check
from native.state import State
from tasks.errors import DeliveryWaitsError, NotFoundError
from tasks.storage.accounts.rows import Account, NewAccount, add_account, find_account, remove_account
from tasks.storage.waiting import claim_waiting
from tests.conftest import TENANT, USER
from tests.integration.send.conftest import Send, let_it_be_due
from tests.support.smtp_server import SmtpServer, reply

OTHER = "another-tenant"


@pytest.fixture(autouse=True)
def as_the_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of the test is the stack's."""
    for command in (account_command, outbox_command):
        monkeypatch.setattr(command, "connect", lambda **_: None)
    monkeypatch.setattr(native.environment, "apply", lambda _: None)


def run(*arguments: str, **options: str) -> Result:
    result = CliRunner().invoke(cli.main, arguments, **options)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def waiting(
    sender: Account, smtp: SmtpServer, send_once: Send, environment: Callable[..., None]
) -> tuple[Account, Account]:
    """An account of each of two tenants, with a message that waits."""
    environment(SMTP_RETRIES="0")
    new = NewAccount("theirs", "eve@example.org", "127.0.0.1", 9, "none", "eve", "x")
    at_server = {"smtp_hostname": smtp.host, "smtp_port": smtp.port, "smtp_encryption": "none"}
    add_account(OTHER, USER, new._replace(**at_server, smtp_password=smtp.password, sent_copies="none"))
    smtp.on("mail", reply("451 4.3.0 not now"), times=None)
    accounts = sender, find_account(OTHER, new.account_name)
    for account in accounts:
        with pytest.raises(DeliveryWaitsError):
            send_once(account, account.tenant_id)
    smtp._rules.clear()
    return accounts


Accounts = tuple[Account, Account]


def test_health_says_how_much_waits_and_warns_of_what_waits_for_long(
    waiting: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "check_all", lambda _: [stores.mail_goes_out()])

    def mail() -> dict[str, Any]:
        [*_, found] = json.loads(run("health", "--json").stdout)
        return found  # type: ignore[no-any-return]

    # Given mail that does not wait for long yet, then health says how much, and nothing is wrong
    found = mail()
    assert (found["component"], found["ok"], found["warns"]) == ("mail", True, False)
    assert found["figures"] == {"messages": 2, "late": 0, "oldest_seconds": pytest.approx(5, abs=60)}
    assert "2 messages are not sent yet, the oldest has waited for 0:00:" in found["detail"]

    # When one of them has waited for hours, then it warns; other people's servers are no fault of the stack
    let_it_be_due("5 hours")
    shown = run("health")
    assert "warning" in shown.stdout
    assert "2 messages are not sent yet, the oldest has waited for 5:00:" in shown.stdout
    assert "1 of the messages for more than 4:00:00" in shown.stdout
    assert "outbox list --all-tenants" in shown.stderr
    assert shown.exit_code == 0
    assert (mail()["warns"], mail()["figures"]["late"]) == (True, 1)

    # And when all is sent, that is said too
    for account in waiting:
        remove_account(account)
    assert mail()["detail"] == "no message waits to be sent"


def test_mail_is_not_asked_about_while_there_is_no_schema(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    down = Check("postgres", False, "is away")
    monkeypatch.setattr(stores, "postgres_answers", lambda: down)
    monkeypatch.setattr(stores, "redis_answers", lambda: Check("redis", True, ""))
    monkeypatch.setattr(health, "worker_consumes", lambda: Check("worker", True, ""))
    *_, mail = health.check_all(State(tmp_path))
    assert (mail.component, mail.ok, mail.detail) == ("mail", False, "not asked: PostgreSQL is down or not migrated")


def test_the_mail_of_all_tenants_is_listed_and_tried_again(waiting: Accounts) -> None:
    listed = json.loads(run("outbox", "list", "--all-tenants", "--json").stdout)
    assert [(one["tenant"], one["account"]) for one in listed] == [(OTHER, "theirs"), (TENANT, "mail")]
    shown = run("outbox", "list", "--all-tenants").stdout
    assert OTHER in shown
    assert TENANT in shown
    ids = {one["id"] for one in listed}
    would = json.loads(run("outbox", "retry", "--all", "--all-tenants", "--dry-run", "--json").stdout)
    assert set(would["would_retry"]) == ids
    assert claim_waiting(10, 600) == []

    assert "2 messages are tried again" in run("outbox", "retry", "--all", "--all-tenants").stderr
    assert {due.outbox_id for due in claim_waiting(10, 600)} == ids
    for wrong in (("some-id", "--all-tenants"), ("--all", "--all-tenants", "--account", "mail")):
        assert run("outbox", "retry", *wrong).exit_code == 2


def test_an_account_that_is_removed_says_what_it_has_not_sent(waiting: Accounts) -> None:
    asked = run("account", "remove", "mail", "--tenant", TENANT, input="n\n")
    assert asked.exit_code == 1
    assert "1 messages that are not sent yet" in asked.stderr
    assert find_account(TENANT, "mail").id == waiting[0].id

    removed = run("account", "remove", "mail", "--tenant", TENANT, "--yes")
    assert (removed.exit_code, removed.stderr) == (0, "mail is removed, with 1 messages that were not sent yet\n")
    with pytest.raises(NotFoundError):
        find_account(TENANT, "mail")
    # Where nothing waits, nothing is said of it
    run("outbox", "retry", "--all", "--tenant", OTHER)
    [left] = json.loads(run("outbox", "list", "--tenant", OTHER, "--json").stdout)
    run("outbox", "retry", left["id"], "--tenant", OTHER)
    asked = run("account", "remove", "theirs", "--tenant", OTHER, input="n\n")
    assert "messages" not in asked.stderr
