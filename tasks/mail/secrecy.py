"""Keeps a secret out of errors: a server that is none, or an odd one, may answer with the very line it got."""

import re
from base64 import b64encode
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from tasks.errors import TransientError
from tasks.mail.connection import Endpoint
from tasks.mail.login import Login, sasl_for

NOT_SHOWN = "its answer repeats what was sent to log in, so it is not shown"
# So much of a secret, or of a form in which it was sent, is no accident; of a shorter one it takes the whole.
_TELLING_LENGTH = 12
# Of a longer answer no more is looked at, nor shown.
_LOOKED_AT = 4096
# What is sent is the same whatever the server asks. A digest (CRAM-MD5) is not: it is of no use a second time.
_FIXED = {"password": ("PLAIN", "LOGIN"), "oauth2": ("OAUTHBEARER", "XOAUTH2")}


def without_secret(words: str, endpoint: Endpoint, login: Login, longest: int) -> str:
    """A server's words, cut to `longest` characters, or that they are not shown because the secret is in them.

    To be given whole: cut off, a secret would not be known again.
    """
    return NOT_SHOWN if _tells_secret(words[:_LOOKED_AT], endpoint, login) else words[:longest]


@contextmanager
def secret_kept(endpoint: Endpoint, login: Login) -> Iterator[None]:
    """Keeps the secret out of what is raised while logging in, and out of its traceback."""
    try:
        yield
    except TransientError as error:
        told = _told(error, endpoint)
        if len(told) > _LOOKED_AT or _tells_secret(told, endpoint, login):
            raise type(error)(f"{endpoint}: {NOT_SHOWN}") from None
        raise


def _tells_secret(words: str, endpoint: Endpoint, login: Login) -> bool:
    said = _bare(words)
    # Some servers repeat a command in capital letters.
    return _holds(said.casefold(), map(str.casefold, _plain(login))) or _holds(said, _encoded(endpoint, login))


def _holds(said: str, forms: Iterable[str]) -> bool:
    return any(
        form[start : start + _TELLING_LENGTH] in said
        for form in filter(None, map(_bare, forms))
        for start in range(max(1, len(form) - _TELLING_LENGTH + 1))
    )


def _plain(login: Login) -> list[str]:
    """The secret, and as the libraries show the bytes of it in an error."""
    secret = login.secret.encode()
    return [login.secret, repr(secret)[2:-1], secret.decode("ascii", "replace")]


def _encoded(endpoint: Endpoint, login: Login) -> list[str]:
    """The secret as it may have been sent in base64."""
    secret = login.secret.encode()
    exchanges = (sasl_for(login, endpoint, mechanism) for mechanism in _FIXED[login.method])
    # The last of two responses is the secret, or what is said after a refusal: too short to tell anything.
    sent = [response(b"") for sasl in exchanges for response in sasl.responses]
    return [b64encode(data).decode() for data in (secret, *sent) if secret in data]


def _bare(text: str) -> str:
    """Without what is lost or added on the way: white space, the padding of base64, escapes."""
    return re.sub(r"[\s\\=]", "", text)


def _told(error: BaseException, endpoint: Endpoint) -> str:
    """The words of an error and of all that led to it, but for the name of the server."""
    told = str(error.args).replace(str(endpoint), "")
    before = error.__cause__ or error.__context__
    return f"{told} {_told(before, endpoint)}" if before else told
