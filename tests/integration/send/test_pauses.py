"""A refused login stops the side that it happened on, receiving or sending, until a person does something.

An account that is switched off stops on both.
"""

from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result

from manage import account as account_command
from manage import cli
from tasks.celery_app import delete_emails
from tasks.errors import (
    AccountPausedError,
    AccountSwitchedOffError,
    AuthenticationFailedError,
    DeliveryInterruptedError,
    DeliveryUnknownError,
    Remedy,
    SendingPausedError,
)
from tasks.storage.accounts.dispatch import claim_due_accounts
from tasks.storage.accounts.logins import RECEIVING, SENDING, note_refusal
from tasks.storage.accounts.rows import change_password, change_smtp_password, find_account
from tests.conftest import TENANT, USER, Database, register, sync
from tests.integration.send.conftest import Send, sending_account
from tests.support.imap_server import ImapServer
from tests.support.mailbox import Mailbox, message
from tests.support.smtp_server import SmtpServer, drop, reply
from tests.support.stored import column, rows

Run = Callable[..., Result]

# What Microsoft answers where IMAP is allowed and SMTP is not.
SWITCHED_OFF = "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Tenant"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """`account ...` of the command line."""
    monkeypatch.setattr(account_command, "connect", lambda: None)

    def run_(command: str, *arguments: str, **options: str) -> Result:
        return CliRunner().invoke(cli.main, ["account", command, *arguments, "--tenant", TENANT], **options)

    return run_


def paused() -> tuple[bool, bool]:
    """Whether receiving is, and whether sending is."""
    found = find_account(TENANT, "mail")
    return found.paused_at is not None, found.smtp_paused_at is not None


def logins(smtp: SmtpServer) -> int:
    return sum(line.startswith(b"AUTH") for line in smtp.received)


def test_a_refused_login_pauses_sending_and_mail_still_comes_in(
    database: Database, mailbox: Mailbox, smtp: SmtpServer, send_once: Send, run: Run
) -> None:
    # Given a mailbox that works, and an SMTP server that lets nobody in
    mailbox.append([message(1)])
    smtp.on("auth", reply(SWITCHED_OFF), times=None)
    account = sending_account(mailbox, smtp)

    # When messages are sent, then one login is tried
    with pytest.raises(AuthenticationFailedError, match=r"5\.7\.139"):
        send_once(account, "task-1")
    for number in (2, 3):
        with pytest.raises(SendingPausedError, match=r"5\.7\.139"):
            send_once(account, f"task-{number}")
    assert (logins(smtp), paused()) == (1, (False, True))
    assert {state for (state,) in rows("SELECT state FROM outbox_message")} == {"failed"}

    # And the mailbox is synced by schedule, and does not hide why nothing is sent
    assert [due.email_client_id for [due] in claim_due_accounts(10, 300)] == [account.id]
    assert sync(account).total("synced") == 1
    assert paused() == (False, True)
    listed = run("list").stdout
    assert "sending is paused" in listed
    assert "SmtpClientAuthentication" in listed
    assert "receiving is paused" not in listed


def test_a_refused_login_at_the_mailbox_pauses_receiving_and_mail_still_goes_out(
    database: Database, smtp: SmtpServer, send_once: Send, run: Run
) -> None:
    with ImapServer(password="another") as imap:
        account = sending_account(Mailbox(imap.host, imap.port, "ada", "sample-not-this"), smtp)
        with pytest.raises(AuthenticationFailedError):
            sync(account)

        assert send_once(account).state == "sent"
        with pytest.raises(AccountPausedError):
            sync(account)
    assert paused() == (True, False)
    listed = run("list").stdout
    assert "receiving is paused" in listed
    assert "sending is paused" not in listed


def test_copies_are_not_filed_with_a_password_that_was_refused(
    database: Database, smtp: SmtpServer, send_once: Send
) -> None:
    with ImapServer(password="another") as imap:
        account = sending_account(Mailbox(imap.host, imap.port, "ada", "sample-not-this"), smtp, sent_copies="append")

        # When messages are sent, then all go out, and one login is tried to file a copy
        assert [send_once(account, f"task-{number}").state for number in range(4)] == ["sent"] * 4
        assert (len(smtp.messages), imap.logins, paused()) == (4, 1, (True, False))
    # And it is said which messages have no copy, and why
    found = rows("SELECT last_error_code, last_error FROM outbox_message ORDER BY message_id")
    assert [code for code, _ in found] == ["authentication_failed"] + ["account_paused"] * 3
    assert all("wrong user name or password" in str(words) for _, words in found)


def test_a_message_whose_answer_was_lost_is_not_looked_for_with_a_password_that_was_refused(
    database: Database, smtp: SmtpServer, send_once: Send
) -> None:
    with ImapServer(password="another") as imap:
        account = sending_account(Mailbox(imap.host, imap.port, "ada", "sample-not-this"), smtp)
        smtp.on("accepted", drop)
        with pytest.raises(DeliveryInterruptedError):
            send_once(account)
        for _ in range(3):
            with pytest.raises(DeliveryUnknownError, match="wrong user name or password"):
                send_once(account)
        assert (imap.logins, paused()) == (1, (True, False))


def test_trying_an_account_ends_the_pause_of_each_side_that_works(
    database: Database, smtp: SmtpServer, send_once: Send, run: Run, environment: Callable[..., None]
) -> None:
    environment(MAIL_LOGIN_PATIENCE_HOURS="0")
    with ImapServer(password="another") as imap:
        # Given an account that is refused on both sides
        smtp.password = "another"
        account = sending_account(Mailbox(imap.host, imap.port, "ada", "right"), smtp, smtp_password="right")
        tested = run("test", "mail")
        assert (tested.exit_code, paused()) == (1, (True, True))
        assert tested.stderr.count("refuses the user name or password") == 2

        # When one side works, then its pause is over
        smtp.password = "right"
        tested = run("test", "mail")
        assert (tested.exit_code, paused()) == (1, (True, False))
        assert "to send" in tested.stdout
        assert send_once(account).state == "sent"

        # And when the other does, then also the other's
        smtp.password, imap.password = "another", "right"
        assert (run("test", "mail").exit_code, paused()) == (1, (False, True))
        smtp.password = "right"
        assert (run("test", "mail").exit_code, paused()) == (0, (False, False))
        assert find_account(TENANT, "mail").smtp_last_error is None


def test_nothing_is_done_for_an_account_that_is_switched_off(
    database: Database, smtp: SmtpServer, send_once: Send, run: Run
) -> None:
    with ImapServer() as imap:
        # Given an account with a message, that was switched off
        imap.inbox.append(message(1))
        account = sending_account(Mailbox(imap.host, imap.port, "ada", "sample"), smtp)
        sync(account)
        rows("UPDATE email_client SET is_enabled = false RETURNING 1")
        connections = imap.connections
        [message_id] = column("SELECT id FROM email_message")

        # When tasks want something of it, then they are refused, and no server is asked
        with pytest.raises(AccountSwitchedOffError, match="is switched off"):
            sync(account)
        with pytest.raises(AccountSwitchedOffError):
            delete_emails.run([message_id], TENANT, USER)
        with pytest.raises(AccountSwitchedOffError):
            send_once(account, "a task", key="key:1", subject="Hello")
        assert (imap.connections, smtp.connections) == (connections, 0)
        assert find_account(TENANT, "mail").last_error is None
        assert "switched off" in run("list").stdout

        # And a person may try it, which switches nothing on
        assert run("test", "mail").exit_code == 0
        with pytest.raises(AccountSwitchedOffError):
            sync(account)

        # And switched on it does what it did, also for what was refused
        rows("UPDATE email_client SET is_enabled = true RETURNING 1")
        sync(account)
        assert send_once(account, "another", key="key:1", subject="Hello").state == "sent"
        assert len(smtp.messages) == 1


@pytest.mark.parametrize("own", [None, "wrong"], ids=["the mailbox's", "its own"])
def test_the_smtp_server_gets_another_password_and_sending_goes_on(
    database: Database, smtp: SmtpServer, send_once: Send, run: Run, own: str | None
) -> None:
    with ImapServer(password="mailbox") as imap:
        # Given an SMTP server that takes another password than it is given
        smtp.password = "other"
        account = sending_account(Mailbox(imap.host, imap.port, "ada", "mailbox"), smtp, smtp_password=own)
        with pytest.raises(AuthenticationFailedError) as refused:
            send_once(account, "task-1")
        assert refused.value.remedy is Remedy.STORE_SMTP_PASSWORD
        assert "./manage.sh account password mail (with --smtp" in run("list").stderr

        # When one is stored as the list says, twice
        for given in ("mistyped", "other"):
            changed = run("password", "--smtp", "mail", "--password-stdin", input=f"{given}\n")
            assert (changed.exit_code, paused()) == (0, (False, False))

        # Then mail goes out with it, the mailbox has its own, and the old ones are gone
        assert send_once(find_account(TENANT, "mail"), "task-2").state == "sent"
        sync(find_account(TENANT, "mail"))
        assert rows("SELECT count(*) FROM credential") == [(2,)]


def test_an_account_that_cannot_send_gets_no_password_for_it(database: Database, mailbox: Mailbox, run: Run) -> None:
    register(mailbox)
    changed = run("password", "--smtp", "mail", "--password-stdin", input="x\n")
    assert changed.exit_code == 1
    assert "no SMTP server" in changed.stderr
    assert rows("SELECT count(*) FROM credential") == [(1,)]


@pytest.mark.parametrize(("own", "after"), [(None, (False, False)), ("wrong", (False, True))], ids=["one", "two"])
def test_a_new_password_ends_the_pauses_of_the_sides_that_it_is_for(
    database: Database, smtp: SmtpServer, run: Run, own: str | None, after: tuple[bool, bool]
) -> None:
    with ImapServer(password="right") as imap:
        account = sending_account(Mailbox(imap.host, imap.port, "ada", "sample-not-this"), smtp, smtp_password=own)
        run("test", "mail")
        assert paused() == (True, True)

        change_password(account, "right")

    assert paused() == after


def test_a_secret_that_was_changed_meanwhile_is_not_the_one_refused(database: Database, smtp: SmtpServer) -> None:
    # Given attempts that began before the passwords were changed, and are refused after
    account = sending_account(Mailbox("127.0.0.1", 9, "ada", "x"), smtp)
    change_password(account, "another")
    change_smtp_password(account, "another")
    refusal = AuthenticationFailedError("the old one")

    for side in (RECEIVING, SENDING):
        note_refusal(account, side, refusal)
    assert paused() == (False, False)

    for side in (RECEIVING, SENDING):
        note_refusal(find_account(TENANT, "mail"), side, refusal)
    assert paused() == (True, True)
