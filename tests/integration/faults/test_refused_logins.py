"""Logins that worked and are refused now are tried again for hours before they pause; refused mechanisms.

Hours pass by moving the account's times into the past.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tasks.celery_app import sync_emails
from tasks.engine.probe import probe
from tasks.errors import (
    AuthenticationFailedError,
    DeliveryWaitsError,
    LoginDelayedError,
    LoginFailedError,
    LoginRefusedError,
    MailServerUnavailableError,
    SendingPausedError,
    TransientError,
)
from tasks.storage.accounts.dispatch import claim_due_accounts
from tasks.storage.accounts.rows import Account, change_password, find_account
from tests.conftest import TENANT, USER, Database, register, sync
from tests.integration.send.conftest import (  # noqa: F401 - fixtures
    Send,
    let_it_be_due,
    pools,
    send_once,
    sending_account,
    smtp,
)
from tests.support.imap_faults import refuse, rewrite
from tests.support.imap_server import BASIC, ImapServer
from tests.support.mailbox import Mailbox, message
from tests.support.pop3_server import Pop3Server
from tests.support.smtp_server import SmtpServer, reply, slowly
from tests.support.stored import rows
from tests.support.tcp_server import ScriptedServer

# What the user and password of the scripted servers begin with in PLAIN.
PLAIN = "AGFkYQ"


@pytest.fixture(params=["imap", "pop3"])
def server(request: pytest.FixtureRequest, database: Database) -> Iterator[ImapServer | Pop3Server]:
    """A mailbox with one message."""
    if request.param == "imap":
        with ImapServer() as imap:
            imap.inbox.append(message(1))
            yield imap
    else:
        with Pop3Server() as pop3:
            pop3.messages["one"] = message(1)
            yield pop3


def worked(server: ImapServer | Pop3Server) -> Account:
    """An account that was synced, and whose password the server does not take any more."""
    account = register(server, protocol="imap" if isinstance(server, ImapServer) else "pop3")
    assert sync(account).total("synced") == 1
    server.password = "changed"
    return account


def pass_time(minutes: float, side: str = "") -> None:
    """Let so many minutes pass."""
    past = f"make_interval(secs => {60 * minutes})"
    columns = [f"{side}login_refused_since", f"{side}login_retry_at", *([] if side else ["next_sync_at"])]
    rows(f"UPDATE email_client SET {', '.join(f'{name} = {name} - {past}' for name in columns)} RETURNING 1")


def minutes_to_wait(side: str = "") -> float:
    [(wait,)] = rows(f"SELECT extract(epoch FROM {side}login_retry_at - now()) / 60 FROM email_client")
    return round(float(str(wait)), 1)


def due() -> list[str]:
    return [account.email_client_id for batch in claim_due_accounts(10, 300) for account in batch]


def test_a_login_that_worked_is_tried_again_for_hours_before_it_pauses_the_account(
    server: ImapServer | Pop3Server,
) -> None:
    account = worked(server)
    clock, tries = 0.0, []
    while find_account(TENANT, account.id).paused_at is None:
        # When its next login is due, then it is tried once
        logins = server.logins
        with pytest.raises((LoginRefusedError, AuthenticationFailedError)):
            sync(account)
        assert server.logins == logins + 1
        tries.append(clock)
        refused = find_account(TENANT, account.id)
        if refused.paused_at is None:
            assert refused.last_error_code == "login_refused"
            assert "refused since" in str(refused.last_error)
            assert "the next try is at" in str(refused.last_error)
            # and neither the schedule nor anybody else's task tries it before that
            assert due() == []
            with pytest.raises(LoginDelayedError, match="the next try is at"):
                sync(account)
            assert server.logins == logins + 1
            clock += (wait := minutes_to_wait() + 0.1)
            pass_time(wait)
            assert due() == [account.id]

    # Then it was after six hours, with few tries an hour
    assert [round(minute) for minute in tries] == [0, 5, 15, 35, 75, 136, 196, 256, 316, 376]
    paused = find_account(TENANT, account.id)
    assert paused.last_error_code == "authentication_failed"
    assert due() == []


def test_a_login_that_works_again_is_as_if_nothing_had_been(server: ImapServer | Pop3Server) -> None:
    account = worked(server)
    for _ in range(3):
        with pytest.raises(LoginRefusedError):
            sync(account)
        pass_time(60)

    server.password = "sample"
    sync(account)

    well = find_account(TENANT, account.id)
    assert (well.login_refused_since, well.login_failures, well.login_retry_at, well.last_error) == (
        None,
        0,
        None,
        None,
    )
    # and what is refused the next day begins anew
    server.password = "changed"
    pass_time(24 * 60)
    with pytest.raises(LoginRefusedError):
        sync(account)
    assert minutes_to_wait() == pytest.approx(5, abs=0.2)


def test_a_new_password_is_tried_at_once_and_refused_at_once(server: ImapServer | Pop3Server) -> None:
    account = worked(server)
    with pytest.raises(LoginRefusedError):
        sync(account)

    change_password(account, "mistyped")

    assert due() == [account.id]
    with pytest.raises(AuthenticationFailedError):
        sync(find_account(TENANT, account.id))
    assert find_account(TENANT, account.id).paused_at is not None


def test_a_person_tries_at_once(server: ImapServer | Pop3Server) -> None:
    account = worked(server)
    with pytest.raises(LoginRefusedError):
        sync(account)
    with pytest.raises(LoginRefusedError):
        probe(account)

    server.password = "sample"
    probe(account)

    sync(account)


def test_a_task_does_not_repeat_a_refused_login(server: ImapServer | Pop3Server) -> None:
    account = worked(server)
    logins = server.logins
    done = sync_emails.apply((account.id, TENANT, USER))
    assert isinstance(done.result, LoginRefusedError)
    assert server.logins == logins + 1


@pytest.mark.parametrize("words", ["Authentication Limit Exceeded", "who knows", "[CLIENTBUG] what"])
@pytest.mark.parametrize("is_new", [True, False], ids=["new", "worked"])
def test_what_says_nothing_of_the_password_never_pauses(database: Database, words: str, is_new: bool) -> None:
    with ImapServer(BASIC) as server:
        account = register(server)
        if not is_new:
            sync(account)
        server.login_refusal = f"NO {words}"
        waits = []
        for _ in range(12):
            with pytest.raises(LoginFailedError):
                sync(account)
            waits.append(minutes_to_wait())
            pass_time(waits[-1] + 0.1)
        # later and later, up to six hours
        assert waits == pytest.approx([5, 10, 20, 40, 80, 160, 320, 360, 360, 360, 360, 360], abs=0.2)
        assert find_account(TENANT, account.id).paused_at is None

        server.login_refusal = None
        sync(account)


def test_mail_waits_while_the_login_of_the_smtp_server_is_refused(
    database: Database,
    smtp: SmtpServer,  # noqa: F811
    send_once: Send,  # noqa: F811
) -> None:
    # Given an account that has sent, and a server that has forgotten its password
    account = sending_account(Mailbox("127.0.0.1", 9, "ada", "x"), smtp)
    assert send_once(account).state == "sent"
    pools_closed(smtp)
    smtp.password = "changed"

    # When a message is to go out, then it waits, however often its task runs meanwhile
    with pytest.raises(DeliveryWaitsError, match=r"refused since .* next try"):
        send_once(account, "task-2")
    tried = logins(smtp)
    for _ in range(5):
        with pytest.raises(DeliveryWaitsError):
            send_once(account, "task-2")
    assert logins(smtp) == tried
    assert rows("SELECT state, attempts FROM outbox_message ORDER BY message_id") == [("sent", 0), ("queued", 0)]
    refused = find_account(TENANT, account.id)
    assert (refused.paused_at, refused.smtp_paused_at) == (None, None)
    assert "refused since" in str(refused.smtp_last_error)

    # And when the server takes the password again, it goes out
    smtp.password = "sample"
    pass_time(6, "smtp_")
    let_it_be_due()
    assert send_once(account, "task-2").state == "sent"
    assert find_account(TENANT, account.id).smtp_last_error is None

    # And when it is refused for hours, sending is paused
    pools_closed(smtp)
    smtp.password = "changed"
    with pytest.raises(DeliveryWaitsError):
        send_once(account, "task-3")
    pass_time(6 * 60, "smtp_")
    let_it_be_due()
    with pytest.raises(AuthenticationFailedError):
        send_once(account, "task-3")
    with pytest.raises(SendingPausedError):
        send_once(account, "task-4")


def test_of_many_messages_that_wait_for_a_login_one_tries(
    database: Database,
    smtp: SmtpServer,  # noqa: F811
    send_once: Send,  # noqa: F811
) -> None:
    # Given an SMTP server that refuses a password that worked, slowly, and the time of the next try
    account = sending_account(Mailbox("127.0.0.1", 9, "ada", "x"), smtp)
    send_once(account, "first")
    pools_closed(smtp)
    password, smtp.password = smtp.password, "changed"
    smtp.on("auth", slowly(0.5), times=None)
    with pytest.raises(DeliveryWaitsError):
        send_once(account, "second")
    pass_time(6, "smtp_")
    tries = logins(smtp)

    # When several workers come at once
    def attempt(number: int) -> str | None:
        try:
            send_once(account, f"message {number}")
        except DeliveryWaitsError as error:
            return str(error.waiting["error_code"])
        return None

    with ThreadPoolExecutor(4) as workers:
        ends = list(workers.map(attempt, range(4)))

    # Then one of them logs in, and the others wait for what comes of it
    assert logins(smtp) == tries + 1
    assert sorted(end for end in ends if end) == ["login_delayed"] * 3 + ["login_refused"]
    assert minutes_to_wait("smtp_") == pytest.approx(10, abs=0.2)
    # and all are sent once the server takes the password again
    smtp.password = password
    pass_time(11, "smtp_")
    let_it_be_due()
    for number in range(4):
        send_once(account, f"message {number}")
    assert len(smtp.taken()) == 5


def test_a_server_that_is_away_at_the_next_try_delays_it_by_minutes_and_a_person_can_try(
    server: ImapServer | Pop3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = worked(server)
    with pytest.raises(LoginRefusedError):
        sync(account)
    pass_time(6)
    monkeypatch.setattr(server, "password", "sample")
    with monkeypatch.context() as away:
        away.setattr("tasks.engine.connect.login_of", _break_off)
        with pytest.raises(MailServerUnavailableError):
            sync(account)
    assert minutes_to_wait() == pytest.approx(2, abs=0.2)
    with pytest.raises(LoginDelayedError):
        sync(account)
    probe(find_account(TENANT, account.id))
    assert find_account(TENANT, account.id).login_failures == 0


def _break_off(*_: object) -> None:
    raise MailServerUnavailableError("it hung up")


@pytest.mark.parametrize(
    "words",
    [
        "535 5.7.8 Error: authentication failed: Connection lost to authentication server",
        "454 4.7.0 Temporary authentication failure",
        "535 5.7.0 (#AUTH005) Too many bad auth attempts.",
        "500 what?",
    ],
)
def test_mail_waits_for_an_smtp_server_that_lets_nobody_in(
    database: Database,
    smtp: SmtpServer,  # noqa: F811
    send_once: Send,  # noqa: F811
    words: str,
) -> None:
    smtp.on("auth", reply(words), times=None)
    account = sending_account(Mailbox("127.0.0.1", 9, "ada", "x"), smtp)
    for _ in range(6):
        with pytest.raises(TransientError):
            send_once(account)
        pass_time(600, "smtp_")
    assert rows("SELECT state, attempts FROM outbox_message") == [("queued", 0)]
    assert find_account(TENANT, account.id).smtp_paused_at is None


def logins(smtp: SmtpServer) -> int:  # noqa: F811
    return sum(line.startswith(b"AUTH") for line in smtp.received)


def pools_closed(smtp: SmtpServer) -> None:  # noqa: F811
    """As when the worker was restarted: the next message logs in."""
    from tasks.engine.connection_cache import smtp_pool

    smtp_pool().close()
    smtp.hang_up()


# The second mechanism.


def refuses_plain(server: ScriptedServer) -> None:
    words = "NO not in this way" if isinstance(server, ImapServer) else "-ERR not in this way"
    server.on(PLAIN, rewrite(rb"(?s).+", words.encode() + b"\r\n") if "ERR" in words else refuse(words), times=None)


def test_a_mechanism_that_is_refused_is_followed_by_one_other_which_is_remembered(
    server: ImapServer | Pop3Server,
) -> None:
    # Given a server that offers PLAIN and refuses it
    refuses_plain(server)
    account = register(server, protocol="imap" if isinstance(server, ImapServer) else "pop3")

    # When the account is synced, then the password goes by the protocol's own command
    sync(account)
    assert len(server.commands("AUTH")) == 1
    assert len(server.commands("LOGIN") + server.commands("PASS")) == 1

    # And the next time it does at once
    sync(find_account(TENANT, account.id))
    assert len(server.commands("AUTH")) == 1
    assert len(server.commands("LOGIN") + server.commands("PASS")) == 2


def test_login_is_not_tried_where_it_is_disabled(database: Database) -> None:
    with ImapServer(f"{BASIC} AUTH=PLAIN AUTH=LOGIN LOGINDISABLED") as server:
        refuses_plain(server)
        account = register(server, encryption="none")
        with pytest.raises(Exception, match="allows no login without encryption"):
            sync(account)
        assert server.logins == 0


@pytest.mark.parametrize("refusal", ["504 5.7.4 Unrecognized authentication type", "535 5.7.3 no"])
def test_an_smtp_server_that_refuses_plain_gets_login(
    database: Database,
    smtp: SmtpServer,  # noqa: F811
    send_once: Send,  # noqa: F811
    refusal: str,
) -> None:
    smtp.on("auth", reply(refusal), where=b"PLAIN", times=None)
    account = sending_account(Mailbox("127.0.0.1", 9, "ada", "x"), smtp)
    assert send_once(account, "task-1").state == "sent"
    pools_closed(smtp)
    assert send_once(find_account(TENANT, account.id), "task-2").state == "sent"
    asked = [line.split()[1] for line in smtp.received if line.startswith(b"AUTH")]
    assert asked == [b"PLAIN", b"LOGIN", b"LOGIN"]


def test_lines_that_end_without_a_carriage_return_are_lines(database: Database) -> None:
    with ImapServer(f"{BASIC} AUTH=PLAIN") as server:
        server.inbox.append(message(1), message(2))
        server.on("", rewrite(rb"\r\n\Z", b"\n"), times=None)
        assert sync(register(server)).total("synced") == 2
