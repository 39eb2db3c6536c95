"""Who logs in at a mail server, and with what: a password, or an OAuth2 access token.

SASL exchanges as values (RFC 4422), for IMAP, POP3 and SMTP alike: PLAIN (RFC 4616), OAUTHBEARER (RFC 7628) and
XOAUTH2, which Google and Microsoft speak and nobody has standardised. All of them say everything at once.
"""

import re
from base64 import b64encode
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from tasks.errors import (
    AuthenticationFailedError,
    EmailError,
    LoginMethodUnavailableError,
    MailServerBusyError,
    PermanentError,
    TransientError,
)
from tasks.mail.connection import Endpoint

# Codes that say nothing about the password: of IMAP (RFC 5530 section 3), POP3 (RFC 3206) and SMTP, where a reply
# begins with them (RFC 5321 section 4.2.1, RFC 3463 section 2).
_BUSY_CODE = re.compile(
    r"\[(?:UNAVAILABLE|IN-?USE|LIMIT|SERVERBUG|CONTACTADMIN|OVERQUOTA|LOGIN-DELAY|SYS/TEMP)\]"
    r"|^4\d\d\b|^5\d\d 4\.\d{1,3}\.\d{1,3}\b",
    re.IGNORECASE,
)
# Codes that say the password is wrong or no longer good: of the same, and 5.7.8 of RFC 4954 section 6.
_REFUSED_CODE = re.compile(
    r"\[(?:AUTH|AUTHENTICATIONFAILED|AUTHORIZATIONFAILED|EXPIRED)\]|^5\d\d 5\.7\.8\b", re.IGNORECASE
)
# Where no code says anything: the words of Google and Microsoft for too many requests, and what servers say freely.
_BUSY_WORDS = re.compile(
    r"too many|try again|temporar|rate limit|throttl|maximum number of connections", re.IGNORECASE
)

_LONGEST_WORDS = 200
_NOT_SHOWN = "its answer repeats what was sent to log in, so it is not shown"
# So much of a secret, or of a form in which it was sent, is no accident; of a shorter one it takes the whole.
_TELLING_LENGTH = 12
# Of a longer answer no more is looked at, nor shown.
_LOOKED_AT = 4096


@dataclass(frozen=True, slots=True)
class Login:
    """A user name with its secret, which is a password or an access token that expires."""

    username: str
    secret: str = field(repr=False)
    method: Literal["password", "oauth2"] = "password"
    expires_at: datetime | None = None

    @property
    def has_expired(self) -> bool:
        """Whether the server may have ended the session for this reason."""
        return self.expires_at is not None and datetime.now(UTC) >= self.expires_at


class Sasl(NamedTuple):
    """One SASL exchange. After a challenge that tells of a failure, `on_failure` lets the server say no."""

    mechanism: str
    initial_response: bytes
    on_failure: bytes = b""


def sasl_for(login: Login, endpoint: Endpoint, offered: Collection[str]) -> Sasl | None:
    """The exchange to log in with, of the mechanisms the server offers (without AUTH=, in upper case).

    None where a password has to go by the protocol's own command (LOGIN, USER and PASS). Raises
    LoginMethodUnavailableError for a token that the server cannot take, and PermanentError for what cannot be sent.
    """
    if re.search(r"[\0\r\n\x01]", login.username + login.secret):
        raise PermanentError("a user name or password cannot hold a line break or control character")
    if login.method == "password":
        plain = Sasl("PLAIN", f"\0{login.username}\0{login.secret}".encode())
        return plain if "PLAIN" in offered else None
    if "OAUTHBEARER" in offered:
        name = login.username.replace("=", "=3D").replace(",", "=2C")
        fields = (f"n,a={name},", f"host={endpoint.hostname}", f"port={endpoint.port}")
        message = "\1".join((*fields, f"auth=Bearer {login.secret}", "", ""))
        return Sasl("OAUTHBEARER", message.encode(), on_failure=b"\1")
    if "XOAUTH2" in offered:
        return Sasl("XOAUTH2", f"user={login.username}\1auth=Bearer {login.secret}\1\1".encode())
    raise LoginMethodUnavailableError(f"{endpoint} offers {', '.join(sorted(offered)) or 'none'}")


def login_refusal(words: str, endpoint: Endpoint, login: Login) -> EmailError:
    """What a refused login means, by the server's words: busy, or a wrong password.

    They are shown, unless the secret is in them. To be given whole: cut off, it would not be known again.
    """
    shown = _NOT_SHOWN if _tells_secret(words[:_LOOKED_AT], endpoint, login) else words[:_LONGEST_WORDS]
    if means_busy(words):
        return MailServerBusyError(f"{endpoint}: {shown}")
    return AuthenticationFailedError(f"{login.username} at {endpoint}: {shown}")


@contextmanager
def secret_kept(endpoint: Endpoint, login: Login) -> Iterator[None]:
    """Keeps the secret out of what else is raised while logging in, and out of its traceback.

    A server that is none may answer with the very line it got.
    """
    try:
        yield
    except TransientError as error:
        told = _told(error, endpoint)
        if len(told) > _LOOKED_AT or _tells_secret(told, endpoint, login):
            raise type(error)(f"{endpoint}: {_NOT_SHOWN}") from None
        raise


def means_busy(words: str) -> bool:
    """Whether a refusal asks to come back later. "Try again" may also mean another password, so a code decides."""
    if _BUSY_CODE.search(words):
        return True
    return not _REFUSED_CODE.search(words) and bool(_BUSY_WORDS.search(words))


def _tells_secret(words: str, endpoint: Endpoint, login: Login) -> bool:
    said = _bare(words)
    return any(
        form[start : start + _TELLING_LENGTH] in said
        for form in filter(None, map(_bare, _forms(endpoint, login)))
        for start in range(max(1, len(form) - _TELLING_LENGTH + 1))
    )


def _forms(endpoint: Endpoint, login: Login) -> list[str]:
    """The secret as it may have been sent, and as the libraries show the bytes of it in an error."""
    secret = login.secret.encode()
    mechanisms = ("PLAIN",) if login.method == "password" else ("OAUTHBEARER", "XOAUTH2")
    try:
        exchanges = [sasl_for(login, endpoint, [mechanism]) for mechanism in mechanisms]
    except PermanentError:
        return []  # one that cannot be sent
    encoded = [secret, *(sasl.initial_response for sasl in exchanges if sasl)]
    in_errors = (repr(secret)[2:-1], secret.decode("ascii", "replace"))
    return [login.secret, *in_errors, *(b64encode(data).decode() for data in encoded)]


def _bare(text: str) -> str:
    """Without what is lost or added on the way: white space, the padding of base64, escapes."""
    return re.sub(r"[\s\\=]", "", text)


def _told(error: BaseException, endpoint: Endpoint) -> str:
    """The words of an error and of all that led to it, but for the name of the server."""
    told = str(error.args).replace(str(endpoint), "")
    before = error.__cause__ or error.__context__
    return f"{told} {_told(before, endpoint)}" if before else told
