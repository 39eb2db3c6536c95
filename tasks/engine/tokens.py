"""Access tokens of OAuth2 accounts: the stored token while it is good, else a fresh token.

A token is refreshed some minutes before it expires. If many workers need a fresh token, one of them asks the token
endpoint while it holds the lock on the grant's row; the others wait for the lock and find the new token in the row.
If the endpoint is throttled or broken, that is a transient error, and a token that is still good is used meanwhile.
Only a refused grant pauses the account.
"""

from dataclasses import replace
from time import monotonic
from typing import NamedTuple

from sqlalchemy import Connection

from tasks.errors import TokenEndpointUnavailableError
from tasks.mail.oauth2 import refresh
from tasks.settings import get_settings
from tasks.storage.accounts.grants import StoredGrant, ask_later, read_grant, store_tokens
from tasks.storage.session import tenant_transaction

# How long before its expiry a token is refreshed: there is time for a retry or two while the old token still works.
_REFRESH_AHEAD_SECONDS = 300
# A token must be good for at least this long, until the mail server has checked it.
_MIN_SECONDS = 5
# The limit for a request to the token endpoint, because the row stays locked meanwhile.
_MAX_TIMEOUT_SECONDS = 20


class AccessToken(NamedTuple):
    """A token and when it expires, in seconds of time.monotonic()."""

    secret: str
    expires_at: float


def access_token(tenant_id: str, credential_id: str, refused: str | None = None) -> AccessToken:
    """A token to log in with, other than the token that a server has `refused`.

    Raises GrantRevokedError, TokenRequestRefusedError, TokenEndpointUnavailableError, HostNotAllowedError,
    UnknownHostError and CredentialUnreadableError.
    """
    with tenant_transaction(tenant_id) as connection:
        grant = read_grant(connection, tenant_id, credential_id)
    if cached := _cached(grant, refused, _REFRESH_AHEAD_SECONDS):
        return cached
    try:
        with tenant_transaction(tenant_id) as connection:
            grant = read_grant(connection, tenant_id, credential_id, lock=True)
            if cached := _cached(grant, refused, _REFRESH_AHEAD_SECONDS):
                return cached  # another worker has refreshed the token meanwhile
            if grant.retry_in is None or grant.retry_in <= 0:
                return _refresh(connection, tenant_id, credential_id, grant)
            raise TokenEndpointUnavailableError(f"it is asked again in {grant.retry_in:.0f} s", grant.retry_in)
    except TokenEndpointUnavailableError as error:
        if error.retry_after and (grant.retry_in or 0) <= 0:
            with tenant_transaction(tenant_id) as connection:
                ask_later(connection, tenant_id, credential_id, error.retry_after)
        if cached := _cached(grant, refused, _MIN_SECONDS):
            return cached
        raise


def _cached(grant: StoredGrant, refused: str | None, least_seconds: float) -> AccessToken | None:
    token = grant.secrets.access_token
    if token is None or token == refused or grant.expires_in is None or grant.expires_in < least_seconds:
        return None
    return AccessToken(token, monotonic() + grant.expires_in)


def _refresh(connection: Connection, tenant_id: str, credential_id: str, grant: StoredGrant) -> AccessToken:
    settings = get_settings().mail
    tokens = refresh(
        grant.token_endpoint,
        _form(grant),
        timeout=min(settings.timeout, _MAX_TIMEOUT_SECONDS),
        networks_at=settings.networks_at,
    )
    refresh_token = tokens.refresh_token or grant.secrets.refresh_token
    secrets = replace(grant.secrets, refresh_token=refresh_token, access_token=tokens.access_token)
    store_tokens(connection, tenant_id, credential_id, secrets, tokens.lifetime_seconds)
    return AccessToken(tokens.access_token, monotonic() + tokens.lifetime_seconds)


def _form(grant: StoredGrant) -> dict[str, str]:
    form = {
        "client_id": grant.client_id,
        "client_secret": grant.secrets.client_secret,
        "refresh_token": grant.secrets.refresh_token,
        "scope": grant.scope,
    }
    return {name: value for name, value in form.items() if value}
