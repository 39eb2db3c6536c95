"""`./manage.sh reread`: what it asks for, and what it shows."""

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from manage import account_show
from manage import reread as command
from tasks.errors import NotFoundError
from tasks.mail.message import PARSER_VERSION
from tasks.reread import reread_messages
from tasks.storage.accounts.rows import Account, NewAccount, add_account
from tests.conftest import MAIL_PASSWORD, TENANT, Database, register, sync
from tests.integration.reread.conftest import as_owner, outcomes, reread
from tests.support.application import application
from tests.support.mailbox import Mailbox, message
from tests.support.servers import RedisServer
from tests.support.stored import column

MAIL = [
    message(1, subject="Ã¤rger", body="Grüße"),
    message(2, subject="100%_sure", From="Bob <bob@example.net>", List_Id="The Élite <x>"),
    message(3, body="x" * 5000, Date="nonsense"),
]


@pytest.fixture(autouse=True)
def as_the_stack(monkeypatch: pytest.MonkeyPatch, redis: RedisServer, environment: Callable[..., None]) -> Any:
    """The environment of the test is the stack's."""
    environment(REDIS_URL=redis.url)
    monkeypatch.setattr(command, "connect", lambda **_: None)
    with application():
        yield


@pytest.fixture
def old(account: Account, mailbox: Mailbox, misread: Callable[..., None], database: Database) -> Account:
    """An account with three messages that an older parser read."""
    mailbox.append(MAIL)
    sync(account)
    misread("false")
    as_owner(database, "UPDATE email_message SET parser_version = 1")
    return account


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(command.reread, [*arguments, "--tenant", TENANT])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def asked_for() -> list[int]:
    uids = "SELECT imap_uid FROM email_message AS m JOIN rereading ON email_message_id = m.id ORDER BY 1"
    return column(uids)


def chosen(*conditions: str) -> list[int]:
    """The UIDs of the messages that meet the conditions."""
    where = [part for condition in conditions for part in ("--where", condition)]
    assert run(*where).exit_code == 0
    return asked_for()


def test_all_that_an_older_parser_read(old: Account, mailbox: Mailbox) -> None:
    mailbox.append([message(4)])
    sync(old)
    result = run()
    assert result.exit_code == 0
    assert "3 messages asked for" in result.output
    assert asked_for() == [1, 2, 3]
    assert "reread --status" in result.output


def test_a_dry_run_counts(old: Account) -> None:
    result = run("--dry-run", "--json")
    assert json.loads(result.stdout) == [{"tenant": TENANT, "account": "mail", "messages": 3, "set_aside": 0}]
    assert outcomes() == {}
    assert "3 messages would be read again" in run("--dry-run").output


def test_older_than(old: Account, database: Database) -> None:
    as_owner(database, "UPDATE email_message SET parser_version = 2 WHERE imap_uid = 2")
    as_owner(database, "UPDATE email_message SET parser_version = 3 WHERE imap_uid = 3")
    assert "1 messages" in run("--older-than", "2", "--dry-run").output
    assert "2 messages" in run("--older-than", "3", "--dry-run").output
    assert "0 messages" in run("--older-than", "1", "--dry-run").output


def test_one_account_or_those_of_a_tenant_or_of_all(old: Account, mailbox: Mailbox) -> None:
    other = register(mailbox, "other")
    sync(other)
    new = NewAccount("theirs", "a@b", mailbox.host, mailbox.port, "none", mailbox.user, MAIL_PASSWORD)
    add_account("another-tenant", "user", new)

    def names(*arguments: str) -> list[tuple[str, str]]:
        found = json.loads(run("--json", "--dry-run", *arguments).stdout)
        return [(one["tenant"], one["account"]) for one in found]

    assert names("--account", "mail") == [(TENANT, "mail")]
    assert names() == [(TENANT, "mail"), (TENANT, "other")]
    assert names("--all-tenants") == [("another-tenant", "theirs"), (TENANT, "mail"), (TENANT, "other")]
    with pytest.raises(NotFoundError):
        run("--account", "theirs")


@pytest.mark.parametrize(
    ("conditions", "uids"),
    [
        (["subject ~ ã"], [1]),
        (["subject~Ã¤R"], [1]),
        (["subject !~ ã"], [2, 3]),
        (["subject = 100%_sure"], [2]),
        (["subject ~ %"], [2]),
        (["subject ~ _"], [2]),
        (["subject != 100%_sure"], [1, 3]),
        (["text ~ grüsse"], []),
        (["text ~ grüße"], [1]),
        (["from ~ bob@example.net"], [2]),
        (["FROM ~ ada", "size > 1000"], [3]),
        (["bcc = none"], [1, 2, 3]),
        (["to != none", "bcc != none"], []),
        (["html = none", "message_id = 3@example.org"], [3]),
        (["folder = INBOX"], [1, 2, 3]),
        (["folder ~ drafts"], []),
        (["header.LIST-id ~ élite"], [2]),
        (["header.Nothing = none"], [1, 2, 3]),
        (["header.subject != none"], [1, 2, 3]),
        (["sent = none"], [3]),
        (["sent != none"], [1, 2]),
        (["sent < 2026-03-03"], [1, 2]),
        (["received >= 2026-01-01T00:00+00:00", "attachments = 0"], [1, 2, 3]),
        (["version < 2"], [1, 2, 3]),
        # What tries to be SQL is a text that nothing contains.
        (["subject ~ ' OR true --"], []),
        (["subject ~ x'); DELETE FROM email_message; --"], []),
        (["subject = x' UNION SELECT set_config('metabuilder.tenant_id', 'victim', false) --"], []),
        (["folder = ' OR 1=1 OR name='"], []),
        (["header.x'||pg_sleep(9)||' ~ x"], []),
    ],
)
def test_conditions(old: Account, conditions: list[str], uids: list[int]) -> None:
    assert chosen(*conditions) == uids
    assert column("SELECT count(*) FROM email_message") == [3]


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("", "FIELD OPERATOR VALUE"),
        ("subject", "FIELD OPERATOR VALUE"),
        ("subject ~ ", "FIELD OPERATOR VALUE"),
        ("true) OR (true", "FIELD OPERATOR VALUE"),
        ("; DROP TABLE email_message", "FIELD OPERATOR VALUE"),
        ("1=1", "there is no field '1'"),
        ("tenant_id = victim", "there is no field 'tenant_id'"),
        ("(SELECT 1) = 1", "FIELD OPERATOR VALUE"),
        ("subject < x", "there are = != ~ !~"),
        ("subject LIKE x", "FIELD OPERATOR VALUE"),
        ("size ~ 1", "there are = != < <= > >="),
        ("size = 1; DELETE FROM email_message", "a number"),
        ("size = 99999999999999999999", "a number"),
        ("size = ١", "a number"),
        ("sent = yesterday", "a date"),
        ("received > now()", "a date"),
        ("header.subject = x", "for none alone"),
        ("subject ~ \0", "FIELD OPERATOR VALUE"),
        ("subject ~ \udc80", "FIELD OPERATOR VALUE"),
    ],
)
def test_what_is_no_condition_is_wrong_usage(database: Database, condition: str, said: str) -> None:
    result = run("--where", condition)
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ("--status", "--where", "size > 1"), ("--dry-run", "--follow"), ("--older-than", "0"),
        ("--older-than", "new"), ("--all-tenants", "--account", "x"),
    ],
)  # fmt: skip
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    assert run(*arguments).exit_code == 2


def test_the_status_shows_how_far_it_is(old: Account, mailbox: Mailbox) -> None:
    run("--where", "size < 1000")
    mailbox.expunge("1")

    def status() -> dict[str, int]:
        (found,) = json.loads(run("--status", "--json").stdout)
        return {name: found[name] for name in ("old", "waiting", "gone", "other", "unreadable")}

    assert status() == {"old": 3, "waiting": 2, "gone": 0, "other": 0, "unreadable": 0}
    assert reread(old).gone == 1
    assert status() == {"old": 2, "waiting": 0, "gone": 1, "other": 0, "unreadable": 0}
    assert "gone from the server" in run("--status").output
    assert column("SELECT parser_version FROM email_message WHERE imap_uid = 2") == [PARSER_VERSION]


def test_what_was_tried_in_vain_is_asked_for_again_by_a_person_but_not_what_is_gone(
    old: Account, database: Database
) -> None:
    run()
    as_owner(database, "UPDATE rereading SET outcome = 'gone'")
    as_owner(
        database,
        "UPDATE rereading SET outcome = 'unreadable', attempts = 3 "
        "WHERE email_message_id = (SELECT id FROM email_message WHERE imap_uid = 2)",
    )
    assert "1 messages asked for" in run().output
    assert sorted(map(str, outcomes().values())) == ["None", "gone", "gone"]


def test_it_is_followed_to_the_end(old: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    def a_worker_reads(_: float) -> None:
        reread_messages.run(old.id, old.tenant_id, old.user_id)

    monkeypatch.setattr(command, "time", SimpleNamespace(sleep=a_worker_reads))
    assert run("--follow").exit_code == 0
    assert outcomes() == {}


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("paused_at = now()", "receiving is paused"),
        ("is_enabled = false", "switched off"),
        ("is_sync_enabled = false", "switched off"),
    ],
)
def test_nobody_waits_for_an_account_that_is_paused_or_switched_off(
    old: Account, database: Database, monkeypatch: pytest.MonkeyPatch, how: str, why: str
) -> None:
    def wait_for_ever(_: float) -> None:
        raise AssertionError("it waits")

    monkeypatch.setattr(command, "time", SimpleNamespace(sleep=wait_for_ever))
    as_owner(database, f"UPDATE email_client SET {how}")
    result = run("--follow")
    assert result.exit_code == 0
    assert why in result.output
    assert "account show 'mail'" in result.output
    # They wait until a person mends that.
    assert list(outcomes().values()) == [None] * 3


def test_account_show_counts_what_an_older_parser_read(old: Account, mailbox: Mailbox, monkeypatch: Any) -> None:
    monkeypatch.setattr(account_show, "connect", lambda: None)

    def shown() -> str:
        return CliRunner().invoke(account_show.show, [old.id, "--tenant", TENANT]).stdout

    assert "3 messages: 0 wait to be read again, 0 are gone" in shown()
    run("--where", "size < 1000")
    mailbox.expunge("1")
    reread(old)
    assert "2 messages: 0 wait to be read again, 1 are gone" in shown()
    run()
    reread(old)
    assert "1 messages: 0 wait to be read again, 1 are gone" in shown()
