"""Logins at mail servers: user name and secret (a password, or an OAuth2 access token), and the mechanisms to use.

SASL exchanges as values (RFC 4422), for IMAP, POP3 and SMTP alike: PLAIN (RFC 4616), LOGIN, which nobody has
standardised, CRAM-MD5 (RFC 2195), OAUTHBEARER (RFC 7628), and XOAUTH2 of Google and Microsoft.
"""

import hmac
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from time import monotonic
from typing import Literal

from tasks.errors import LoginMethodUnavailableError, PermanentError
from tasks.mail.connection import Endpoint

# The name for the protocol's own command: LOGIN of IMAP (RFC 9051
# section 6.2.3), USER and PASS of POP3 (RFC 1939 section 7).
OWN_COMMAND = "own command"

Response = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class Login:
    """A user name with its secret, which is a password or an access token that expires.

    `expires_at` is in seconds of time.monotonic(). `mechanism` is the mechanism of the last login at this server that
    worked; None where none has worked.
    """

    username: str
    secret: str = field(repr=False)
    method: Literal["password", "oauth2"] = "password"
    expires_at: float | None = None
    mechanism: str | None = None

    @property
    def has_expired(self) -> bool:
        """Whether the access token has expired, so that the server may have ended the session for that reason."""
        return self.expires_at is not None and monotonic() >= self.expires_at


@dataclass(frozen=True, slots=True)
class Sasl:
    """One SASL exchange: the answers to the server's challenges in turn.

    In mechanisms where the client speaks first, the first
    challenge is empty, and a further challenge describes an error.
    """

    mechanism: str
    responses: tuple[Response, ...] = ()
    client_first: bool = True

    def response(self, number: int, challenge: bytes = b"") -> bytes | None:
        """The answer to challenge number `number`, counted from 0. None for a challenge that was not expected."""
        return self.responses[number](challenge) if number < len(self.responses) else None


def exchanges_for(
    login: Login, endpoint: Endpoint, offered: Collection[str], *, has_command: bool = False
) -> list[Sasl]:
    """The exchanges to try, the best first, for the mechanisms that the server offers (without AUTH=, in upper case).

    These are two at most, because each refusal counts at the provider; the mechanism that worked
    last comes first. `has_command` says whether a password may be sent with the protocol's own
    command. CRAM-MD5 is used only if no other known mechanism is offered, because a server with
    CRAM-MD5 has to store passwords readable. Raises LoginMethodUnavailableError for a token if
    the server does not take tokens, and PermanentError for a login that cannot be sent.
    """
    if re.search(r"[\0\r\n\x01]", login.username + login.secret):
        raise PermanentError("a user name or password cannot hold a line break or control character")
    if login.method == "oauth2":
        names = [name for name in ("OAUTHBEARER", "XOAUTH2") if name in offered]
        if not names:
            raise LoginMethodUnavailableError(f"{endpoint} offers {', '.join(sorted(offered)) or 'none'}")
    else:
        available = {*offered, OWN_COMMAND} if has_command else set(offered)
        names = [name for name in ("PLAIN", OWN_COMMAND, "LOGIN") if name in available]
        if not {"PLAIN", "LOGIN"} & available and "CRAM-MD5" in available:
            names.append("CRAM-MD5")
    names.sort(key=lambda name: name != login.mechanism)
    return [sasl_for(login, endpoint, name) for name in names[:2]]


def sasl_for(login: Login, endpoint: Endpoint, mechanism: str) -> Sasl:
    """The exchange of one mechanism."""
    username, secret = login.username.encode(), login.secret.encode()
    match mechanism:
        case "PLAIN":
            return Sasl(mechanism, (_always(b"\0" + username + b"\0" + secret),))
        case "LOGIN":
            return Sasl(mechanism, (_always(username), _always(secret)), client_first=False)
        case "CRAM-MD5":
            return Sasl(mechanism, (_digest(username, secret),), client_first=False)
        case "OAUTHBEARER":
            name = login.username.replace("=", "=3D").replace(",", "=2C")
            fields = (f"n,a={name},", f"host={endpoint.hostname}", f"port={endpoint.port}")
            message = "\1".join((*fields, f"auth=Bearer {login.secret}", "", ""))
            return Sasl(mechanism, (_always(message.encode()), _always(b"\1")))
        case "XOAUTH2":
            message = f"user={login.username}\1auth=Bearer {login.secret}\1\1"
            return Sasl(mechanism, (_always(message.encode()), _always(b"")))
    return Sasl(OWN_COMMAND)


def _always(response: bytes) -> Response:
    return lambda _: response


def _digest(username: bytes, secret: bytes) -> Response:
    return lambda challenge: username + b" " + hmac.new(secret, challenge, "md5").hexdigest().encode()
