"""OAuth2 from end to end: a token endpoint over HTTPS, and mail servers that look at the tokens.

The token endpoint is one of our own (`tests/support/token_server.py`), because no provider can be made to throttle,
break or revoke; Dovecot takes its tokens as Google and Microsoft take theirs. Where a server has to end a session
when its token ends, as they do and Dovecot does not, the scripted server stands in.
"""

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from native.dovecot import Dovecot
from native.errors import StackError
from native.unprivileged import identity
from tasks.engine.connect import login_of
from tasks.engine.connection_cache import lent_smtp, smtp_pool
from tasks.engine.probe import probe
from tasks.engine.send.draft import SendRequest
from tasks.engine.send.outbox import send
from tasks.errors import (
    AuthenticationFailedError,
    DeliveryInterruptedError,
    GrantRevokedError,
    HostNotAllowedError,
    LoginDelayedError,
    LoginMethodUnavailableError,
    LoginRefusedError,
    MailServerBusyError,
    TokenEndpointUnavailableError,
    TokenRequestRefusedError,
)
from tasks.storage.accounts.dispatch import claim_due_accounts
from tasks.storage.accounts.grants import Grant, Secrets
from tasks.storage.accounts.rows import Account, change_refresh_token, find_account
from tasks.storage.outbox import Outgoing
from tasks.storage.session import tenant_transaction
from tests.conftest import MAIL_PASSWORD, TENANT, Database, register, sync, unavailable
from tests.support.application import Broker
from tests.support.imap_faults import Answer, from_message
from tests.support.imap_server import QRESYNC, ImapServer
from tests.support.mailbox import Mailbox, message
from tests.support.smtp_server import SmtpServer, drop, reply
from tests.support.stored import column, rows, stored_uids
from tests.support.token_server import TokenServer, trusted
from tests.support.watcher import running_watcher
from tests.support.worker import wait_until

Environment = Callable[..., None]
TOKENS = QRESYNC.replace("AUTH=PLAIN", "AUTH=PLAIN AUTH=XOAUTH2 AUTH=OAUTHBEARER")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, object]:
    return trusted(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def tokens(files: tuple[Path, object], database: Database, environment: Environment) -> Iterator[TokenServer]:
    """The token endpoint; its authority is trusted, as the system's would be."""
    certificate, issued = files
    environment(SSL_CERT_FILE=str(certificate), MAIL_ALLOWED_NETWORKS="127.0.0.0/8,::1/128", MAIL_TIMEOUT="3")
    with TokenServer(issued) as server:
        yield server


@pytest.fixture
def server(tokens: TokenServer) -> Iterator[ImapServer]:
    """A mail server that takes the tokens that the token endpoint gave."""
    with ImapServer(TOKENS) as server:
        server.tokens = tokens.valid.keys()  # type: ignore[assignment]  # a live view
        server.inbox.append(*(message(number) for number in range(1, 6)))
        yield server


def grant(tokens: TokenServer, **changes: str) -> Grant:
    fields = {"provider": "other", "token_endpoint": tokens.endpoint, "client_id": "client", "scope": "mail"}
    return Grant(**{**fields, **changes}, secrets=Secrets("refresh-1", "client-secret"))


@pytest.fixture
def account(server: ImapServer, tokens: TokenServer) -> Account:
    return register(server, password=grant(tokens))


def age(seconds: float) -> None:
    """Let the cached token have that many seconds left, as if time had passed."""
    with tenant_transaction(TENANT) as connection:
        connection.exec_driver_sql(
            "UPDATE oauth2_grant SET expires_at = clock_timestamp() + make_interval(secs => %s)", (seconds,)
        )


@pytest.fixture(params=["XOAUTH2", "OAUTHBEARER"])
def dovecot_with_tokens(
    tokens: TokenServer, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[tuple[Dovecot, str]]:
    """A Dovecot that asks the token server about each token, by one mechanism, with two messages."""
    settings = tmp_path / "oauth2.conf"
    settings.write_text(
        f"introspection_url = {tokens.introspection_url}\nintrospection_mode = post\nusername_attribute = username\n"
        "active_attribute = active\nactive_value = true\n"
    )
    identity().hand_over(tmp_path)
    name = request.param.lower()
    extra = (
        f"auth_mechanisms = plain {name}\n"
        f"passdb {{\n  driver = oauth2\n  mechanisms = {name}\n  args = {settings}\n}}\n"
    )
    server = Dovecot(tmp_path / "server", tmp_path / "mail", MAIL_PASSWORD, extra_config=extra, pop3=True)
    try:
        server.start()
    except StackError as error:
        unavailable(str(error))
    try:
        Mailbox(server.host, server.port, tokens.username, MAIL_PASSWORD).append([message(1), message(2)])
        yield server, request.param
    finally:
        server.stop()


@pytest.mark.parametrize("protocol", ["imap", "pop3"])
def test_a_real_dovecot_takes_the_token(
    dovecot_with_tokens: tuple[Dovecot, str], tokens: TokenServer, protocol: str
) -> None:
    dovecot, mechanism = dovecot_with_tokens
    port = dovecot.pop3_port if protocol == "pop3" else dovecot.port
    box = Mailbox(dovecot.host, port, tokens.username, MAIL_PASSWORD)

    # When an account with a refresh token is synced, twice
    account = register(box, password=grant(tokens), protocol=protocol)
    sync(account)
    sync(account)

    # Then its mail is there, and one token was enough
    assert sorted(column("SELECT message_id FROM email_message")) == ["1@example.org", "2@example.org"]
    assert len(tokens.requests) == 1
    assert f"{protocol}-login: Info: Login: user=<{tokens.username}>, method={mechanism}" in dovecot.log.read_text()


def test_the_request_is_that_of_rfc_6749(account: Account, tokens: TokenServer) -> None:
    sync(account)
    assert tokens.requests == [
        {
            "grant_type": "refresh_token",
            "client_id": "client",
            "client_secret": "client-secret",
            "refresh_token": "refresh-1",
            "scope": "mail",
        }
    ]


def test_a_token_is_used_until_shortly_before_it_expires(account: Account, tokens: TokenServer) -> None:
    sync(account)
    sync(account)
    assert len(tokens.requests) == 1
    age(seconds=200)
    sync(account)
    assert len(tokens.requests) == 2


def test_a_token_that_expires_in_mid_sync_is_refreshed_and_the_sync_goes_on(
    account: Account, server: ImapServer, tokens: TokenServer
) -> None:
    # Given a token whose time is up at message 3, whereupon the server ends the session
    tokens.lifetime = 1

    def expire(answer: Answer) -> None:
        time.sleep(1.1)
        tokens.lifetime = 3600
        tokens.valid.clear()
        answer.data, answer.then = b"* BYE Session expired, please login again.\r\n", "drop"

    server.on("UID FETCH", from_message(3, expire), uid=3)

    # When the account is synced, then in the same run all is there
    tally = sync(account)

    assert stored_uids() == [1, 2, 3, 4, 5]
    assert tally.total("synced") == 5
    assert len(tokens.requests) == 2
    assert server.connections == 2
    assert max(server.bodies.values()) <= 2  # what arrived before was not fetched again
    assert find_account(TENANT, account.id).last_error is None


def test_a_token_that_is_refused_before_its_time_is_refreshed_once(
    account: Account, server: ImapServer, tokens: TokenServer
) -> None:
    sync(account)
    tokens.valid.clear()  # as when a password was changed
    sync(account)
    assert len(tokens.requests) == 2
    assert find_account(TENANT, account.id).paused_at is None


def test_a_mailbox_that_takes_no_token_pauses_the_account_after_two_tries(
    account: Account, server: ImapServer, tokens: TokenServer
) -> None:
    server.tokens = set()
    with pytest.raises(AuthenticationFailedError):
        sync(account)
    assert (server.logins, len(tokens.requests)) == (2, 2)
    assert find_account(TENANT, account.id).paused_at is not None


@pytest.mark.parametrize("error", ["invalid_grant", "interaction_required", "consent_required"])
def test_a_revoked_grant_pauses_the_account_and_says_so(
    account: Account, server: ImapServer, tokens: TokenServer, error: str
) -> None:
    tokens.refuse(400, error, error_description="Token has been expired or revoked.")

    with pytest.raises(GrantRevokedError):
        sync(account)

    paused = find_account(TENANT, account.id)
    assert paused.last_error_code == "grant_revoked"
    assert paused.paused_at is not None
    assert "until a new refresh token is stored" in str(paused.last_error)
    assert list(claim_due_accounts(10, 300)) == []
    assert server.connections == 0

    # When its owner has consented anew, it works again
    tokens.answer, tokens.refresh_token = None, "refresh-new"
    change_refresh_token(paused, "refresh-new", None)
    assert find_account(TENANT, account.id).paused_at is None
    assert sync(account).total("synced") == 5
    assert tokens.requests[-1]["client_secret"] == "client-secret"


def test_a_grant_that_worked_is_asked_for_again_for_hours_before_it_pauses(
    account: Account, server: ImapServer, tokens: TokenServer
) -> None:
    # Given an account that was synced, and whose token ran out
    sync(account)
    age(seconds=1)
    tokens.refuse(400, "invalid_grant")

    # When the endpoint refuses its grant, then it is not paused, and not asked again at once
    with pytest.raises(LoginRefusedError, match="invalid_grant"):
        sync(account)
    requests = len(tokens.requests)
    with pytest.raises(LoginDelayedError):
        sync(account)
    assert (len(tokens.requests), find_account(TENANT, account.id).paused_at) == (requests, None)

    # And when that was for a while only, it goes on
    tokens.answer = None
    wait_for_login(hours=1)
    sync(account)
    assert find_account(TENANT, account.id).last_error is None

    # And when it is refused for hours, it is paused
    age(seconds=1)
    tokens.refuse(400, "invalid_grant")
    with pytest.raises(LoginRefusedError):
        sync(account)
    wait_for_login(hours=6)
    with pytest.raises(GrantRevokedError):
        sync(account)
    assert find_account(TENANT, account.id).paused_at is not None


def wait_for_login(hours: int) -> None:
    """Let so many hours pass, for the account's logins."""
    with tenant_transaction(TENANT) as connection:
        connection.exec_driver_sql(
            "UPDATE email_client SET login_refused_since = login_refused_since - make_interval(hours => %s), "
            "login_retry_at = login_retry_at - make_interval(hours => %s)",
            (hours, hours),
        )


PASSING = {
    "throttled": (429, "rate_limit_exceeded", {}),
    "throttled without a word": (429, "", {}),
    "broken": (500, "internal_failure", {}),
    "a page of a proxy": (503, "", {}),
    "a page that claims success": (200, "", {}),
    "temporarily unavailable": (400, "temporarily_unavailable", {}),
    "Microsoft's loop detection": (400, "invalid_grant", {"error_codes": [50196]}),
}


@pytest.mark.parametrize(("status", "error", "more"), PASSING.values(), ids=PASSING)
def test_a_throttled_or_broken_endpoint_is_not_a_revoked_grant(
    account: Account, tokens: TokenServer, status: int, error: str, more: dict[str, object]
) -> None:
    tokens.refuse(status, error, **more)

    with pytest.raises(TokenEndpointUnavailableError):
        sync(account)

    failed = find_account(TENANT, account.id)
    assert (failed.last_error_code, failed.paused_at) == ("token_endpoint_unavailable", None)
    tokens.answer = None
    assert sync(account).total("synced") == 5


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 60_000,
        b'{"access_token":' * 3_000,
        b'{"access_token": "a\\ud800"}',
        b'{"access_token": "good", "expires_in": ' + b"9" * 5_000 + b"}",
        b'{"error": "slow_down", "error_description": "a\\u0000b"}',
        b'{"error": "\\udfff"}',
        b"\xff\xfe\x00",
        b"",
    ],
    ids=lambda body: repr(body[:40]),
)
def test_an_answer_that_is_none_is_a_passing_condition(account: Account, tokens: TokenServer, body: bytes) -> None:
    tokens.answer = 200, {"Content-Type": "application/json"}, body

    with pytest.raises(TokenEndpointUnavailableError):
        sync(account)

    assert find_account(TENANT, account.id).last_error_code == "token_endpoint_unavailable"


@pytest.mark.parametrize("date", ["Fri, 31 Dec 9999 23:59:59 -0000", "Mon, 01 Jan 0001 00:00:00 -0000", "9" * 400])
def test_a_time_to_wait_that_is_none_is_not_waited_for(account: Account, tokens: TokenServer, date: str) -> None:
    tokens.refuse(503, headers={"Retry-After": date})
    with pytest.raises(TokenEndpointUnavailableError):
        sync(account)


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://localhost/token\r",
        "https://local\r\nhost/token",
        "https://localhost:99999/token",
        "https://xn--\u00fc\u200d/token",
    ],
    ids=repr,
)
def test_a_url_that_is_none_is_an_error_of_the_configuration(
    server: ImapServer, tokens: TokenServer, endpoint: str
) -> None:
    account = register(server, password=grant(tokens, token_endpoint=endpoint))
    with pytest.raises(TokenRequestRefusedError, match="URL cannot be used"):
        sync(account)
    assert find_account(TENANT, account.id).last_error_code == "token_request_refused"


def test_an_endpoint_that_hangs_up_or_listens_not_is_a_passing_condition(
    server: ImapServer, tokens: TokenServer
) -> None:
    nobody = f"https://localhost:{server.port}/token"  # speaks no TLS
    account = register(server, password=grant(tokens, token_endpoint=nobody))
    with pytest.raises(TokenEndpointUnavailableError):
        sync(account)


def test_while_the_endpoint_is_down_a_token_that_is_still_good_is_used(account: Account, tokens: TokenServer) -> None:
    sync(account)
    tokens.refuse(503)
    age(seconds=60)
    sync(account)
    assert len(tokens.requests) == 2


def test_an_endpoint_that_says_when_to_come_back_is_left_alone_until_then(
    account: Account, tokens: TokenServer
) -> None:
    tokens.refuse(429, "slow_down", headers={"Retry-After": "120"})
    for _ in range(3):
        with pytest.raises(TokenEndpointUnavailableError):
            sync(account)
    assert len(tokens.requests) == 1
    # and when it says so once more, again
    with tenant_transaction(TENANT) as connection:
        connection.exec_driver_sql("UPDATE oauth2_grant SET retry_at = clock_timestamp() - interval '1 second'")
    for _ in range(3):
        with pytest.raises(TokenEndpointUnavailableError):
            sync(account)
    assert len(tokens.requests) == 2


@pytest.mark.parametrize("error", ["invalid_client", "unauthorized_client", "invalid_scope"])
def test_a_refused_client_is_an_error_of_the_configuration(account: Account, tokens: TokenServer, error: str) -> None:
    tokens.refuse(401, error)
    with pytest.raises(TokenRequestRefusedError, match=error):
        sync(account)
    # When the client's secret is put right, all its accounts recover by themselves.
    assert find_account(TENANT, account.id).paused_at is None


def test_a_refresh_token_for_one_use_is_used_once_by_many_workers(account: Account, tokens: TokenServer) -> None:
    tokens.rotates, tokens.delay = True, 0.3
    with ThreadPoolExecutor(2) as pool:
        logins = list(pool.map(lambda _: login_of(account), range(6)))
    assert len(tokens.requests) == 1
    assert tokens.most_at_once == 1
    assert len({login.secret for login in logins}) == 1
    # and the next one is used the next time
    age(seconds=1)
    login_of(account)
    assert tokens.requests[-1]["refresh_token"] == "refresh-2"


def test_an_endpoint_inside_the_network_is_refused(
    account: Account, tokens: TokenServer, environment: Environment
) -> None:
    environment(MAIL_ALLOWED_NETWORKS="10.0.0.0/8")
    with pytest.raises(HostNotAllowedError, match="token endpoint"):
        probe(account)
    assert tokens.requests == []


def test_an_endpoint_whose_certificate_is_not_trusted_gets_no_secret(
    account: Account, tokens: TokenServer, environment: Environment
) -> None:
    environment(SSL_CERT_FILE="/etc/ssl/certs/ca-certificates.crt", SSL_VERIFY="false")
    with pytest.raises(TokenEndpointUnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
        sync(account)
    assert tokens.requests == []


def test_the_same_token_sends_and_one_that_is_refused_is_refreshed_once(
    server: ImapServer, tokens: TokenServer
) -> None:
    # Given an SMTP server that takes the second token only
    with SmtpServer(password="access-2") as smtp:
        where = {"smtp_hostname": smtp.host, "smtp_port": smtp.port, "smtp_encryption": "none"}
        account = register(server, password=grant(tokens), **where)

        with lent_smtp(account):
            pass

        assert smtp.logins == 1
        assert any(b"XOAUTH2" in line for line in smtp.received)
        assert len(tokens.requests) == 2
        smtp_pool().close()


@pytest.fixture
def sender(server: ImapServer, tokens: TokenServer) -> Iterator[tuple[Account, SmtpServer]]:
    """An account that sends with tokens, and its SMTP server."""
    with SmtpServer() as smtp:
        where = {"smtp_hostname": smtp.host, "smtp_port": smtp.port, "smtp_encryption": "none"}
        where |= {"email_address": "ada@example.org", "sent_copies": "none"}
        yield register(server, password=grant(tokens), **where), smtp
        smtp_pool().close()


def send_once(account: Account, run: str) -> Outgoing:
    request = SendRequest(account.id, account.tenant_id, account.user_id, ["bob@example.net"], subject="Hello")
    return send(request, "task:task-1", f"task-1:{run}")


def test_mail_waits_for_a_throttled_endpoint_however_long(
    sender: tuple[Account, SmtpServer], tokens: TokenServer, environment: Environment
) -> None:
    environment(SMTP_RETRIES="1")
    account, smtp = sender
    tokens.refuse(429, "slow_down", headers={"Retry-After": "120"})

    # When it is tried more often than a mail server would be
    for number in range(5):
        with pytest.raises(TokenEndpointUnavailableError) as waiting:
            send_once(account, str(number))
        # Then it is said how long to wait, and none of the tries counts: no mail server was asked
        assert waiting.value.retry_after == pytest.approx(120, abs=10)
    assert rows("SELECT state, attempts FROM outbox_message") == [("queued", 0)]
    assert (len(tokens.requests), smtp.connections) == (1, 0)

    # And when the endpoint answers again, it goes out, and has all its tries
    tokens.answer = None
    with tenant_transaction(TENANT) as connection:
        connection.exec_driver_sql("UPDATE oauth2_grant SET retry_at = NULL")
    smtp.on("auth", reply("454 4.7.0 temporary authentication failure"))
    smtp.password = "access-2"
    with pytest.raises(MailServerBusyError):
        send_once(account, "busy")
    assert send_once(account, "last").state == "sent"
    assert len(smtp.messages) == 1


def test_whether_a_message_was_sent_is_found_out_when_the_endpoint_answers_again(
    sender: tuple[Account, SmtpServer], server: ImapServer, tokens: TokenServer, environment: Environment
) -> None:
    environment(SMTP_RETRIES="1")
    account, smtp = sender
    smtp.password = "access-1"
    smtp.on("accepted", drop)
    with pytest.raises(DeliveryInterruptedError):
        send_once(account, "first")
    tokens.refuse(503)
    age(seconds=0)
    for number in range(5):
        with pytest.raises(TokenEndpointUnavailableError):
            send_once(account, str(number))

    assert rows("SELECT state, attempts FROM outbox_message") == [("unknown", 0)]


def test_a_server_that_takes_no_tokens_is_said(account: Account, server: ImapServer) -> None:
    server.capabilities = QRESYNC
    with pytest.raises(LoginMethodUnavailableError):
        sync(account)
    assert server.logins == 0


def test_no_secret_is_in_the_database_or_in_the_log(
    account: Account, tokens: TokenServer, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    sync(account)
    tokens.refuse(500, "internal_failure")
    age(seconds=0)
    with pytest.raises(TokenEndpointUnavailableError) as failure:
        sync(account)
    with tenant_transaction(TENANT) as connection:
        stored = str([connection.exec_driver_sql(f"SELECT * FROM {t}").all() for t in ("credential", "oauth2_grant")])
    for secret in ("refresh-1", "client-secret", "access-1"):
        assert secret not in stored
        assert secret not in caplog.text
        assert secret not in f"{failure.value!r} {failure.value.__cause__!r}"


def test_a_watched_session_is_made_anew_before_its_token_ends(
    server: ImapServer, account: Account, tokens: TokenServer, broker: Broker, tmp_path: Path
) -> None:
    server.capabilities = f"{TOKENS} IDLE"
    sync(account)
    rows("UPDATE email_client SET next_sync_at = now() + interval '1 day' RETURNING 1")
    tokens.lifetime = 4
    age(1)
    with running_watcher(tmp_path) as watcher:
        watcher.wait_until_watching("mail")
        logins = server.logins
        wait_until(lambda: server.logins >= logins + 2, "the session is not made anew")
        # Nobody is told of this message: each session that is made anew finds what came meanwhile.
        server.inbox.append(message(6))
        wait_until(lambda: broker.taken("sync"), "a change is not found any more")
        wait_until(lambda: server.open_now <= 1, "sessions are left open")
        assert "is not watched until" not in watcher.log()
