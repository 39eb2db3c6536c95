"""Logs in with one mechanism, and with a second one if the first may be the reason for a refusal."""

from base64 import b64encode
from collections.abc import Callable, Sequence

from tasks.errors import AuthenticationFailedError, EmailError, LoginBusyError, LoginFailedError, TransientError
from tasks.mail.connection import Endpoint
from tasks.mail.login import Login, Sasl, sasl_for
from tasks.mail.refusal import Meaning, meaning_of
from tasks.secrecy.secrets import learn, said

_MAX_WORDS_LENGTH = 200
_FIXED = {"password": ("PLAIN", "LOGIN"), "oauth2": ("OAUTHBEARER", "XOAUTH2")}
_ERRORS: dict[Meaning, type[EmailError]] = {
    Meaning.WRONG_BY_CODE: AuthenticationFailedError,
    Meaning.WRONG_BY_WORDS: AuthenticationFailedError,
    Meaning.BUSY: LoginBusyError,
    Meaning.LIMITED: LoginFailedError,
    Meaning.UNCLEAR: LoginFailedError,
}


def log_in(exchanges: Sequence[Sasl], attempt: Callable[[Sasl], str | None], endpoint: Endpoint, login: Login) -> str:
    """Log in, and return the name of the mechanism that worked. `attempt` returns the server's words if it refuses.

    Each refusal counts at the provider, so the second mechanism is tried only if the first may be the reason: after a
    refusal without a code for a wrong password and without words of load, limits or locks. After clear words for a
    wrong password, it is tried only if no login has worked before, because some servers say the same of a mechanism.

    Raises AuthenticationFailedError, LoginBusyError or LoginFailedError: of two refusals the clearer one.
    """
    refusal: EmailError | None = None
    for sasl in exchanges:
        try:
            words = attempt(sasl)
        except TransientError:
            if refusal is None:
                raise
            break  # a server that hangs up after the first refusal has refused
        if words is None:
            return sasl.mechanism
        error = login_refusal(words, endpoint, login)
        refusal = refusal if refusal and isinstance(error, LoginFailedError) else error
        if not _may_be_the_mechanism(meaning_of(words), login):
            break
    assert refusal is not None
    raise refusal from None


def learn_login(login: Login, endpoint: Endpoint) -> None:
    """Register a login as secret: the password or token, and each line that may be sent with it.

    The lines are registered too, because the rest of a line that was cut off may hold too little of the secret to be
    recognised. A digest (CRAM-MD5) needs no registering, as it is of no use a second time.
    """
    secret = login.secret.encode()
    exchanges = (sasl_for(login, endpoint, mechanism) for mechanism in _FIXED[login.method])
    sent = (response(b"") for sasl in exchanges for response in sasl.responses)
    lines = (b64encode(data).decode() for data in sent if secret in data)
    learn(login.secret, *lines, public=(endpoint.hostname, login.username))


def login_refusal(words: str, endpoint: Endpoint, login: Login) -> EmailError:
    """The error for a refused login, by the server's words, which are shown unless they hold the secret."""
    return _ERRORS[meaning_of(words)](f"{login.username} at {endpoint}: {said(words, _MAX_WORDS_LENGTH)}")


def _may_be_the_mechanism(meaning: Meaning, login: Login) -> bool:
    return meaning is Meaning.UNCLEAR or (meaning is Meaning.WRONG_BY_WORDS and login.mechanism is None)
