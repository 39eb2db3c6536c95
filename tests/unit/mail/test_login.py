"""SASL exchanges, byte for byte as their documents write them, which of them are tried, and what errors show."""

from base64 import b64encode

import pytest

from tasks.errors import (
    AuthenticationFailedError,
    EmailError,
    LoginMethodUnavailableError,
    MailServerUnavailableError,
    PermanentError,
    Remedy,
)
from tasks.mail.authenticate import learn_login, log_in, login_refusal
from tasks.mail.connection import Endpoint
from tasks.mail.login import OWN_COMMAND, Login, Sasl, exchanges_for, sasl_for
from tasks.secrecy.forms import Known
from tasks.secrecy.secrets import NOT_SHOWN, secrets_kept

ENDPOINT = Endpoint("server.example.com", 143, "tls", 10, True, ())
TOKEN = Login("user@example.com", "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==", "oauth2")


def said(sasl: Sasl, *challenges: bytes) -> list[bytes | None]:
    return [sasl.response(number, challenge) for number, challenge in enumerate(challenges)]


def test_oauthbearer_as_in_rfc_7628() -> None:
    sasl = exchanges_for(TOKEN, ENDPOINT, {"PLAIN", "OAUTHBEARER", "XOAUTH2"})[0]
    assert sasl.mechanism == "OAUTHBEARER"
    assert said(sasl, b"", b"no", b"no again") == [
        b"n,a=user@example.com,\x01host=server.example.com\x01port=143\x01"
        b"auth=Bearer vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==\x01\x01",
        b"\1",
        None,
    ]


def test_xoauth2_as_google_writes_it() -> None:
    [sasl] = exchanges_for(Login("someuser@example.com", "ya29.vF9dft4", "oauth2"), ENDPOINT, {"PLAIN", "XOAUTH2"})
    assert sasl.mechanism == "XOAUTH2"
    assert said(sasl, b"", b"no") == [b"user=someuser@example.com\x01auth=Bearer ya29.vF9dft4\x01\x01", b""]


def test_cram_md5_as_in_rfc_2195() -> None:
    sasl = sasl_for(Login("tim", "tanstaaftanstaaf"), ENDPOINT, "CRAM-MD5")
    assert said(sasl, b"<1896.697170952@postoffice.reston.mci.net>", b"more") == [
        b"tim b913a602c7eda7a495b4e6e7334d3890",
        None,
    ]


def test_login_says_one_after_the_other() -> None:
    sasl = sasl_for(Login("ådå", "密 "), ENDPOINT, "LOGIN")
    assert said(sasl, b"Username:", b"Password:", b"?") == ["ådå".encode(), "密 ".encode(), None]
    assert not sasl.client_first


def test_a_token_is_never_sent_as_a_password() -> None:
    with pytest.raises(LoginMethodUnavailableError, match="PLAIN"):
        exchanges_for(TOKEN, ENDPOINT, {"PLAIN"}, has_command=True)


PASSWORDS = [
    ({"PLAIN", "LOGIN", "CRAM-MD5", "NTLM"}, True, None, ["PLAIN", OWN_COMMAND]),
    ({"PLAIN", "LOGIN", "CRAM-MD5"}, False, None, ["PLAIN", "LOGIN"]),
    ({"LOGIN", "XOAUTH2"}, True, None, [OWN_COMMAND, "LOGIN"]),
    ({"CRAM-MD5", "NTLM"}, True, None, [OWN_COMMAND, "CRAM-MD5"]),
    ({"CRAM-MD5"}, True, "CRAM-MD5", ["CRAM-MD5", OWN_COMMAND]),
    ({"CRAM-MD5", "NTLM"}, False, None, ["CRAM-MD5"]),
    ({"NTLM"}, False, None, []),
    # What worked last comes first, as long as it is offered.
    ({"PLAIN", "LOGIN"}, False, "LOGIN", ["LOGIN", "PLAIN"]),
    ({"PLAIN"}, True, OWN_COMMAND, [OWN_COMMAND, "PLAIN"]),
    ({"PLAIN", "LOGIN"}, True, "LOGIN", ["LOGIN", "PLAIN"]),
    ({"PLAIN"}, True, "LOGIN", ["PLAIN", OWN_COMMAND]),
    ({"PLAIN"}, True, "unknown", ["PLAIN", OWN_COMMAND]),
]


@pytest.mark.parametrize(("offered", "has_command", "worked", "tried"), PASSWORDS)
def test_two_ways_are_tried_at_most(
    offered: set[str], has_command: bool, worked: str | None, tried: list[str]
) -> None:
    login = Login("ada", "sample", mechanism=worked)
    exchanges = exchanges_for(login, ENDPOINT, offered, has_command=has_command)
    assert [sasl.mechanism for sasl in exchanges] == tried


WRONG_BY_CODE, WRONG_BY_WORDS = "[AUTHENTICATIONFAILED] no", "Authentication failed"
UNCLEAR, BUSY, LIMITED = "no reason given", "[UNAVAILABLE] later", "Authentication Limit Exceeded"
# What the first and the second mechanism are answered with, whether a login worked before, and what comes of it.
ANSWERS = [
    ([WRONG_BY_CODE], None, "authentication_failed"),
    ([WRONG_BY_WORDS], "PLAIN", "authentication_failed"),
    ([WRONG_BY_WORDS, WRONG_BY_WORDS], None, "authentication_failed"),
    ([WRONG_BY_WORDS, UNCLEAR], None, "authentication_failed"),
    ([WRONG_BY_WORDS, None], None, "works"),
    ([UNCLEAR, None], "PLAIN", "works"),
    ([UNCLEAR, WRONG_BY_CODE], None, "authentication_failed"),
    ([UNCLEAR, UNCLEAR], None, "login_failed"),
    ([UNCLEAR, BUSY], None, "server_busy"),
    ([BUSY], None, "server_busy"),
    ([LIMITED], None, "login_failed"),
    ([UNCLEAR, MailServerUnavailableError("hung up")], None, "login_failed"),
    ([MailServerUnavailableError("hung up")], None, "server_unavailable"),
]


@pytest.mark.parametrize(("answers", "worked", "outcome"), ANSWERS)
def test_the_second_way_is_for_where_the_first_may_be_to_blame(
    answers: list[str | Exception | None], worked: str | None, outcome: str
) -> None:
    login = Login("ada", "sample", mechanism=worked)
    left = list(answers)

    def attempt(_: Sasl) -> str | None:
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    exchanges = exchanges_for(login, ENDPOINT, {"PLAIN", "LOGIN"})
    try:
        assert log_in(exchanges, attempt, ENDPOINT, login) == "LOGIN"
        code = "works"
    except EmailError as error:
        code = error.code
    assert (code, left) == (outcome, [])


@pytest.mark.parametrize("character", ["\0", "\r", "\n", "\x01"])
@pytest.mark.parametrize("method", ["password", "oauth2"])
def test_nothing_can_be_smuggled_into_an_exchange(character: str, method: str) -> None:
    for login in (Login(f"u{character}", "s", method), Login("u", f"s{character}", method)):
        with pytest.raises(PermanentError):
            exchanges_for(login, ENDPOINT, {"PLAIN", "XOAUTH2"})


def test_a_secret_is_not_shown() -> None:
    assert "sample" not in repr(Login("user", "sample"))


def test_a_refusal_says_what_to_do() -> None:
    refusal = login_refusal("[AUTHENTICATIONFAILED] no", ENDPOINT, TOKEN)
    assert isinstance(refusal, AuthenticationFailedError)
    assert refusal.remedy is Remedy.STORE_PASSWORD


PASSWORD = Login("ada", 's3cret "wörd"\\ 1')
APP_PASSWORD = Login("ada", "abcd efgh ijkl mnop")
REPEATED = {
    "as it is": (PASSWORD, PASSWORD.secret),
    "as IMAP quotes it": (PASSWORD, r"s3cret \"wörd\"\\ 1"),
    "as Python shows its bytes": (PASSWORD, repr([PASSWORD.secret.encode()])),
    "as imaplib reads a BYE": (PASSWORD, PASSWORD.secret.encode().decode("ascii", "replace")),
    "by LOGIN": (PASSWORD, b64encode(PASSWORD.secret.encode()).decode()),
    "by PLAIN": (PASSWORD, b64encode(f"\0ada\0{PASSWORD.secret}".encode()).decode()),
    "by PLAIN, in part": (PASSWORD, b64encode(f"\0ada\0{PASSWORD.secret}".encode()).decode()[:14] + "..."),
    "without padding": (PASSWORD, b64encode(PASSWORD.secret.encode()).decode().rstrip("=")),
    "with white space folded": (Login("ada", "two  spaces"), "two spaces"),
    "in capital letters": (PASSWORD, PASSWORD.secret.upper()),
    "a token as it is": (TOKEN, TOKEN.secret),
    "a token, in part": (TOKEN, TOKEN.secret[10:30]),
    "by OAUTHBEARER": (
        TOKEN,
        b64encode(
            b"n,a=user@example.com,\x01host=server.example.com\x01port=143\x01"
            b"auth=Bearer vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==\x01\x01"
        ).decode(),
    ),
    "by XOAUTH2": (
        TOKEN,
        b64encode(
            b"user=user@example.com\x01auth=Bearer vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==\x01\x01"
        ).decode(),
    ),
}


@pytest.mark.parametrize("words", ["535 5.7.8 rejected: AUTH {}", "{} too many logins", "x" * 195 + "{}"])
@pytest.mark.parametrize(("login", "sent"), REPEATED.values(), ids=REPEATED)
def test_a_secret_that_the_server_repeats_is_not_shown(login: Login, sent: str, words: str) -> None:
    words = words.format(sent)
    with secrets_kept(Known()):
        learn_login(login, ENDPOINT)
        shown = login_refusal(words, ENDPOINT, login).detail

    assert shown.endswith(f"server.example.com:143: {NOT_SHOWN}")


@pytest.mark.parametrize("login", [PASSWORD, APP_PASSWORD, TOKEN, Login("ada", " ")])
def test_words_without_the_secret_are_shown(login: Login) -> None:
    words = "535 5.7.8 Username and Password not accepted, s3cr: https://support.example.com/mail/?p=BadCredentials"

    with secrets_kept(Known()):
        learn_login(login, ENDPOINT)
        assert login_refusal(words, ENDPOINT, login).detail == f"{login.username} at {ENDPOINT}: {words}"
