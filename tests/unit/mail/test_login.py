"""SASL exchanges, byte for byte as their documents write them, and what a refused one says."""

from base64 import b64encode

import pytest

from tasks.errors import AuthenticationFailedError, LoginMethodUnavailableError, MailServerBusyError, PermanentError
from tasks.mail.connection import Endpoint
from tasks.mail.login import Login, login_refusal, sasl_for

ENDPOINT = Endpoint("server.example.com", 143, "tls", 10, True, ())
TOKEN = Login("user@example.com", "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==", "oauth2")


def test_oauthbearer_as_in_rfc_7628() -> None:
    sasl = sasl_for(TOKEN, ENDPOINT, {"PLAIN", "OAUTHBEARER", "XOAUTH2"})
    assert sasl is not None
    assert sasl.mechanism == "OAUTHBEARER"
    assert sasl.initial_response == (
        b"n,a=user@example.com,\x01host=server.example.com\x01port=143\x01"
        b"auth=Bearer vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==\x01\x01"
    )
    assert sasl.on_failure == b"\x01"


def test_xoauth2_as_google_writes_it() -> None:
    sasl = sasl_for(Login("someuser@example.com", "ya29.vF9dft4", "oauth2"), ENDPOINT, {"PLAIN", "XOAUTH2"})
    assert sasl is not None
    assert (sasl.mechanism, sasl.on_failure) == ("XOAUTH2", b"")
    assert sasl.initial_response == b"user=someuser@example.com\x01auth=Bearer ya29.vF9dft4\x01\x01"


def test_a_token_is_never_sent_as_a_password() -> None:
    with pytest.raises(LoginMethodUnavailableError, match="PLAIN"):
        sasl_for(TOKEN, ENDPOINT, {"PLAIN"})


def test_a_password_goes_by_plain_or_by_the_protocols_own_command() -> None:
    login = Login("ådå", "密 ")
    assert sasl_for(login, ENDPOINT, set()) is None
    plain = sasl_for(login, ENDPOINT, {"XOAUTH2", "PLAIN"})
    assert plain is not None
    assert plain.initial_response == "\0ådå\0密 ".encode()


@pytest.mark.parametrize("character", ["\0", "\r", "\n", "\x01"])
@pytest.mark.parametrize("method", ["password", "oauth2"])
def test_nothing_can_be_smuggled_into_an_exchange(character: str, method: str) -> None:
    for login in (Login(f"u{character}", "s", method), Login("u", f"s{character}", method)):
        with pytest.raises(PermanentError):
            sasl_for(login, ENDPOINT, {"PLAIN", "XOAUTH2"})


def test_a_secret_is_not_shown() -> None:
    assert "sample" not in repr(Login("user", "sample"))


# By a code, by a code that words contradict, and by words where no code says anything.
BUSY = [
    *("[UNAVAILABLE] x", "[IN-USE] locked", "[SYS/TEMP] x", "[LOGIN-DELAY] wait", "454 4.7.0 no", "421 bye"),
    *("454 5.7.8 wrong password", "535 4.3.0 no", "[LIMIT] wrong password"),
    *("Too many simultaneous connections", "535 5.7.0 (#AUTH005) Too many bad auth attempts"),
]
WRONG = [
    "535 5.7.3 Authentication unsuccessful",
    *("535 5.7.8 Invalid login or password. Please try again", "535 5.7.8 Too many failed logins"),
    *("[AUTHENTICATIONFAILED] Wrong password, try again.", "[AUTH] invalid user name or password, please try again"),
    "[EXPIRED] the temporary password is of no use any more",
]


@pytest.mark.parametrize(
    ("words", "error"),
    [*((words, MailServerBusyError) for words in BUSY), *((words, AuthenticationFailedError) for words in WRONG)],
)
def test_a_busy_server_is_told_from_a_wrong_password(words: str, error: type[Exception]) -> None:
    assert type(login_refusal(words, ENDPOINT, TOKEN)) is error


def test_any_other_refusal_is_one() -> None:
    refusal = login_refusal("[AUTHENTICATIONFAILED] no", ENDPOINT, TOKEN)
    assert isinstance(refusal, AuthenticationFailedError)
    assert "./manage.sh account password" in str(refusal)
    assert TOKEN.secret not in str(refusal)


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
    shown = login_refusal(words, ENDPOINT, login).detail

    assert shown.endswith("server.example.com:143: its answer repeats what was sent to log in, so it is not shown")


@pytest.mark.parametrize("login", [PASSWORD, APP_PASSWORD, TOKEN, Login("ada", " ")])
def test_words_without_the_secret_are_shown(login: Login) -> None:
    words = "535 5.7.8 Username and Password not accepted, s3cr: https://support.example.com/mail/?p=BadCredentials"

    assert login_refusal(words, ENDPOINT, login).detail == f"{login.username} at {ENDPOINT}: {words}"
