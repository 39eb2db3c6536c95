"""TLS and logins at an SMTP server: nothing secret goes where it should not."""

import traceback
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.errors import (
    AuthenticationFailedError,
    CertificateInvalidError,
    EncryptionUnavailableError,
    HostNotAllowedError,
    LoginFailedError,
    LoginMethodUnavailableError,
    MailServerBusyError,
    MailServerUnavailableError,
    ProtocolError,
)
from tasks.mail.connection import Endpoint
from tasks.mail.login import Login
from tasks.mail.smtp.commands import SmtpConnection
from tasks.settings import get_settings
from tests.support.certificates import Authority
from tests.support.smtp_server import SmtpServer, reply

PASSWORD = 'sample: ü@:/#%$ " ='


@pytest.fixture
def authority(tmp_path: Path, environment: Callable[..., None]) -> Authority:
    """Trusted, as the system's would be."""
    authority = Authority(tmp_path)
    environment(SSL_CERT_FILE=str(authority.certificate))
    return authority


def connect(server: SmtpServer, encryption: str = "none", login: Login | None = None) -> SmtpConnection:
    networks = get_settings().mail.networks_at(server.port)
    endpoint = Endpoint(server.host, server.port, encryption, 2, True, networks)
    return SmtpConnection(endpoint, login or Login("ada", PASSWORD))


@pytest.mark.parametrize("mechanisms", ["PLAIN", "LOGIN", "LOGIN PLAIN"])
@pytest.mark.parametrize("encryption", ["none", "starttls", "tls"])
def test_a_password_with_any_characters_logs_in(authority: Authority, encryption: str, mechanisms: str) -> None:
    files = authority.issue("valid", "127.0.0.1")
    options = {"tls": files, "implicit_tls": encryption == "tls"} if encryption != "none" else {}
    with SmtpServer((f"AUTH {mechanisms}",), password=PASSWORD, **options) as server:
        connect(server, encryption).close()

        assert server.logins == 1
        assert server.received[-1] == b"QUIT"


def test_a_token_logs_in_and_a_refused_one_says_why(environment: Callable[..., None]) -> None:
    environment()
    with SmtpServer(("AUTH XOAUTH2 PLAIN",), password="token") as server:
        connect(server, login=Login("ada", "token", "oauth2")).close()
        with pytest.raises(AuthenticationFailedError):
            connect(server, login=Login("ada", "another", "oauth2"))
        assert server.logins == 1
    with SmtpServer(("AUTH PLAIN",)) as server, pytest.raises(LoginMethodUnavailableError):
        connect(server, login=Login("ada", "token", "oauth2"))


@pytest.mark.parametrize("encryption", ["starttls", "tls"])
def test_no_password_goes_to_a_server_that_is_not_who_it_says(authority: Authority, encryption: str) -> None:
    files = authority.issue("other", "mail.example.org")
    with SmtpServer(password=PASSWORD, tls=files, implicit_tls=encryption == "tls") as server:
        with pytest.raises(CertificateInvalidError):
            connect(server, encryption)

        assert not any(line.startswith(b"AUTH") for line in server.received)


def test_no_password_goes_where_encryption_was_asked_for_and_is_not_there(environment: Callable[..., None]) -> None:
    environment()
    with SmtpServer(password=PASSWORD) as server:
        with pytest.raises(EncryptionUnavailableError):
            connect(server, "starttls")

        assert not any(line.startswith(b"AUTH") for line in server.received)


@pytest.mark.parametrize("encryption", ["none", "starttls"])
@pytest.mark.parametrize("words", ["451 4.3.2 not now", "421 4.3.2 closing"])
def test_a_server_too_busy_to_greet_is_asked_nothing_more(
    environment: Callable[..., None], encryption: str, words: str
) -> None:
    environment()
    with SmtpServer(password=PASSWORD) as server:
        server.on("ehlo", reply(words))
        with pytest.raises(MailServerBusyError, match=words):
            connect(server, encryption)

        assert [line.split()[0] for line in server.received] == [b"ehlo"]


def test_a_server_too_busy_to_greet_again_after_starttls_is_one(authority: Authority) -> None:
    with SmtpServer(password=PASSWORD, tls=authority.issue("valid", "127.0.0.1")) as server:
        server.on("ehlo", reply("451 4.3.2 not now"), after=1)
        with pytest.raises(MailServerBusyError):
            connect(server, "starttls")

        assert not any(line.startswith((b"helo", b"AUTH")) for line in server.received)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("454 TLS not available due to temporary reason", MailServerBusyError),
        ("421 4.3.2 closing", MailServerBusyError),
        ("502 5.5.1 not here", EncryptionUnavailableError),
        ("250 what?", EncryptionUnavailableError),
    ],
)
def test_no_password_goes_where_encryption_is_refused_for_now_or_for_good(
    authority: Authority, words: str, error: type[Exception]
) -> None:
    with SmtpServer(password=PASSWORD, tls=authority.issue("valid", "127.0.0.1")) as server:
        server.on("starttls", reply(words))
        with pytest.raises(error):
            connect(server, "starttls")

        assert server.received[-1] == b"STARTTLS"


def test_a_server_that_does_not_know_ehlo_is_greeted_as_of_old(environment: Callable[..., None]) -> None:
    environment()
    with SmtpServer() as server:
        server.on("ehlo", reply("502 5.5.1 what?"), times=None)
        smtp = connect(server)
        assert smtp.offer("a@example.org", ["b@example.org"], 10).is_open
        smtp.abandon()
        with pytest.raises(EncryptionUnavailableError):
            connect(server, "starttls")
        server.on("helo", reply("450 4.3.2 not now"))
        with pytest.raises(MailServerBusyError):
            connect(server)
        server.on("helo", reply("550 5.7.1 you may not"))
        with pytest.raises(MailServerUnavailableError, match=r"550 5\.7\.1 you may not"):
            connect(server)


def test_a_server_too_busy_for_a_login_is_not_a_wrong_password(environment: Callable[..., None]) -> None:
    environment()
    with SmtpServer(password=PASSWORD) as server:
        server.on("auth", reply("454 4.7.0 temporary authentication failure"))
        with pytest.raises(MailServerBusyError):
            connect(server)
        server.on("auth", reply("535 5.7.8 wrong password, please try again"))
        with pytest.raises(AuthenticationFailedError):
            connect(server)


REPEATS = {
    "refused": ("535 5.7.8 rejected: {}", AuthenticationFailedError),
    "busy": ("454 4.7.0 cannot do {}", MailServerBusyError),
    "no answer": ("{}", ProtocolError),
}


@pytest.mark.parametrize(("words", "error"), REPEATS.values(), ids=REPEATS)
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "XOAUTH2", "OAUTHBEARER"])
def test_what_a_server_repeats_of_a_login_is_not_shown(
    environment: Callable[..., None], mechanism: str, words: str, error: type[Exception]
) -> None:
    environment()
    login = Login("ada", PASSWORD, "oauth2" if "AUTH" in mechanism else "password")
    with SmtpServer((f"AUTH {mechanism}",)) as server:
        server.repeats_logins = words
        with pytest.raises(error, match="its answer repeats a secret") as raised:
            connect(server, login=login)

    everything = "".join(traceback.format_exception(raised.value))
    assert PASSWORD not in everything
    assert not any(line.split()[-1].decode() in everything for line in server.received)


def test_what_a_challenge_says_of_a_refused_token_is_readable_and_does_not_repeat_it(
    environment: Callable[..., None],
) -> None:
    environment()
    with SmtpServer(("AUTH XOAUTH2",)) as server:
        login = Login("ada", "sample-token", "oauth2")
        with pytest.raises(AuthenticationFailedError, match='"status":"401"'):
            connect(server, login=login)
        server.on("auth", reply("334 " + b64encode(b'{"status":"401","token":"sample-token"}').decode()))
        with pytest.raises(LoginFailedError, match="its answer repeats a secret"):
            connect(server, login=login)


def test_a_server_in_a_private_network_is_refused(environment: Callable[..., None]) -> None:
    environment(MAIL_ALLOWED_NETWORKS="")
    with SmtpServer() as server, pytest.raises(HostNotAllowedError):
        connect(server)
    assert server.connections == 0


def test_a_server_without_logins_is_a_relay(environment: Callable[..., None]) -> None:
    environment()
    with SmtpServer(()) as server:
        smtp = connect(server)
        assert smtp.offer("a@example.org", ["b@example.org"], 10).is_open
        smtp.abandon()


def test_many_recipients_do_not_fill_the_pipe(environment: Callable[..., None]) -> None:
    environment()
    recipients = [f"user{number}@example.org" for number in range(5000)]
    with SmtpServer(("PIPELINING",)) as server:
        server.on("rcpt", reply("250 " + "very long words " * 20), times=None)
        smtp = connect(server)
        offer = smtp.offer("a@example.org", recipients, 10)
        smtp.abandon()

    assert len(offer.recipients) == 5000
