"""Asks an OAuth2 token endpoint for an access token (RFC 6749 section 6); knows the endpoints of large providers."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tasks.errors import (
    EmailError,
    GrantRevokedError,
    HostNotAllowedError,
    MailServerUnavailableError,
    TokenEndpointUnavailableError,
    TokenRequestRefusedError,
)
from tasks.mail.hosts import IpAddress, Network, resolve
from tasks.mail.kinds import Encryption, MailProtocol
from tasks.mail.retry_after import seconds_to_wait
from tasks.secrecy.secrets import learn, said

_HTTPS_PORT, _HIGHEST_PORT = 443, 65_535
_MAX_ANSWER_BYTES = 64 * 1024
_MAX_WORDS_LENGTH = 200
# The lifetime of a token if the answer does not give one (RFC 6749 section 5.1 only recommends to give it).
_DEFAULT_LIFETIME_SECONDS = 600
_MAX_LIFETIME_SECONDS = 24 * 3600

# Errors after which only the mailbox's owner can help (RFC 6749 section 5.2, OpenID Connect, Microsoft).
_NEEDS_A_PERSON = {"invalid_grant", "interaction_required", "consent_required", "login_required"}
_PASSING = {"temporarily_unavailable", "server_error", "slow_down", "rate_limit_exceeded", "internal_failure"}
# Microsoft's numbers for transient errors that also come with invalid_grant: a loop was detected, a transient error.
_PASSING_NUMBERS = {50196, 90033}


class Provider(NamedTuple):
    """The servers of a provider.

    `scope` is the scope that tokens are requested with; empty: everything that was granted.
    """

    token_endpoint: str
    scope: str
    imap_hostname: str
    pop3_hostname: str
    smtp_hostname: str
    smtp_port: int
    smtp_encryption: Encryption

    def hostname(self, protocol: str) -> str:
        """The server of `imap` or `pop3`."""
        return self.pop3_hostname if protocol == MailProtocol.POP3 else self.imap_hostname


PROVIDERS = {
    "google": Provider(
        "https://oauth2.googleapis.com/token", "",
        "imap.gmail.com", "pop.gmail.com", "smtp.gmail.com", 465, Encryption.TLS,
    ),
    "microsoft": Provider(
        "https://login.microsoftonline.com/common/oauth2/v2.0/token", "",
        "outlook.office365.com", "outlook.office365.com", "smtp.office365.com", 587, Encryption.STARTTLS,
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tokens:
    """The answer of a token endpoint. `refresh_token` is None where the present refresh token stays good."""

    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    lifetime_seconds: int


def refresh(
    token_endpoint: str, form: dict[str, str], *, timeout: float, networks_at: Callable[[int], tuple[Network, ...]]
) -> Tokens:
    """Exchange a refresh token. `form` is client_id, refresh_token, and where given client_secret and scope.

    The certificate is always verified, and the endpoint's address obeys the same rule as a mail server's: where it is
    not public, it must be in one of the networks that `networks_at` gives for its port.

    Raises GrantRevokedError, TokenRequestRefusedError (also for an endpoint
    that is no URL), TokenEndpointUnavailableError (with the seconds to wait
    where the endpoint says), HostNotAllowedError and UnknownHostError.
    """
    import httpx

    learn(form.get("refresh_token"), form.get("client_secret"))
    try:
        target = httpx.URL(token_endpoint)
        if (target.port or 0) > _HIGHEST_PORT:
            raise httpx.InvalidURL(f"there is no port {target.port}")
    except httpx.InvalidURL as error:
        raise TokenRequestRefusedError(f"the token endpoint's URL cannot be used: {said(str(error))}") from None
    where = target.host
    try:
        addresses = resolve(where, networks_at(target.port or _HTTPS_PORT))
    except MailServerUnavailableError as error:
        raise TokenEndpointUnavailableError(error.detail) from error
    except HostNotAllowedError as error:
        raise HostNotAllowedError(f"{error.detail}, the token endpoint") from error
    status, headers, body = _post(target, addresses, {"grant_type": "refresh_token", **form}, timeout)
    answer = _json(body)
    if status == 200 and isinstance(answer.get("access_token"), str):
        return _tokens(answer)
    wait = seconds_to_wait(headers.get("retry-after"), headers.get("date"))
    raise _refusal(f"{where} answers {status}", status, answer, wait)


def _post(target: Any, addresses: list[IpAddress], form: dict[str, str], timeout: float) -> tuple[int, Any, bytes]:
    """Status, headers and body. The connection goes to an address that was checked, and TLS verifies the name."""
    import ssl

    import httpx

    # A proxy is not used, because it would resolve the name
    # again. Redirects are not followed: the form holds secrets.
    with httpx.Client(verify=ssl.create_default_context(), trust_env=False, timeout=timeout) as client:
        for number, address in enumerate(addresses, start=1):
            try:
                with client.stream(
                    "POST",
                    target.copy_with(host=str(address)),
                    data=form,
                    headers={"Host": target.netloc.decode(), "Accept": "application/json"},
                    extensions={"sni_hostname": target.host},
                ) as response:
                    return response.status_code, response.headers, _bounded(response, timeout)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                if number == len(addresses):
                    raise TokenEndpointUnavailableError(f"{target.host}: {_reason(error)}") from None
            except httpx.HTTPError as error:
                # `from None`, because the cause has the request with the secrets.
                raise TokenEndpointUnavailableError(f"{target.host}: {_reason(error)}") from None
    raise AssertionError("a name resolves to at least one address")


def _reason(error: Exception) -> str:
    return said(str(error), _MAX_WORDS_LENGTH) or type(error).__name__


def _bounded(response: Any, timeout: float) -> bytes:
    body, deadline = b"", time.monotonic() + timeout
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) > _MAX_ANSWER_BYTES or time.monotonic() > deadline:
            break  # an answer that is cut short is no JSON, which raises an error
    return body


def _json(body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body)
        json.dumps(answer, ensure_ascii=False).encode()  # fails for half a character (a lone surrogate)
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


def _tokens(answer: dict[str, Any]) -> Tokens:
    refresh_token = answer.get("refresh_token")
    learn(answer["access_token"], refresh_token if isinstance(refresh_token, str) else None)
    return Tokens(
        access_token=answer["access_token"],
        refresh_token=refresh_token if isinstance(refresh_token, str) and refresh_token else None,
        lifetime_seconds=min(_lifetime(answer.get("expires_in")), _MAX_LIFETIME_SECONDS),
    )


def _refusal(what: str, status: int, answer: dict[str, Any], wait: float | None) -> EmailError:
    code = str(answer.get("error", ""))
    words = said(f"{code} {answer.get('error_description', '')}".strip(), _MAX_WORDS_LENGTH)
    detail = f"{what} {words}".strip()
    numbers = answer.get("error_codes")
    passing = isinstance(numbers, list) and bool(_PASSING_NUMBERS & {n for n in numbers if isinstance(n, int)})
    if not code or passing or code in _PASSING or status == 429 or status >= 500:
        return TokenEndpointUnavailableError(detail, wait)
    return GrantRevokedError(detail) if code in _NEEDS_A_PERSON else TokenRequestRefusedError(detail)


def _lifetime(seconds: object) -> int:
    """The lifetime of a token, which some endpoints write as a string."""
    try:
        return max(int(str(seconds)), 0)
    except ValueError:
        return _DEFAULT_LIFETIME_SECONDS
