"""OAuth2 grants: refresh token, client and endpoint, with
which an access token is requested, and the tokens received.

Refresh token, client secret and the stored access token are encrypted together, as the secret of the credential. A
grant is refreshed under a lock on its row, so that only one of many workers asks for a new token, and a refresh token
that may be used only once is used only once.
"""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy import Connection, Float, cast, func, insert, select, update

from tasks.errors import NotFoundError
from tasks.storage.credentials import OAUTH2, add_credential, read_credential, replace_secret
from tasks.storage.models import OAuth2Grant


@dataclass(frozen=True, slots=True)
class Secrets:
    """The part of a grant that is encrypted."""

    refresh_token: str = field(repr=False)
    client_secret: str | None = field(default=None, repr=False)
    access_token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Grant:
    """A refresh token with its client and endpoint. An empty `scope` asks for everything that was granted."""

    provider: str
    token_endpoint: str
    client_id: str
    scope: str
    secrets: Secrets


@dataclass(frozen=True, slots=True)
class StoredGrant(Grant):
    """A grant with its times, in seconds from now (None: no such time)."""

    expires_in: float | None
    retry_in: float | None


def add_grant(connection: Connection, tenant_id: str, grant: Grant) -> str:
    """Store a grant and return the id of its credential."""
    credential_id = add_credential(connection, tenant_id, _to_json(grant.secrets), OAUTH2)
    connection.execute(
        insert(OAuth2Grant).values(
            tenant_id=tenant_id,
            credential_id=credential_id,
            provider=grant.provider,
            token_endpoint=grant.token_endpoint,
            client_id=grant.client_id,
            scope=grant.scope,
        )
    )
    return credential_id


def read_grant(connection: Connection, tenant_id: str, credential_id: str, *, lock: bool = False) -> StoredGrant:
    """Read a grant; `lock` locks its row until the transaction ends. Raises NotFoundError and
    CredentialUnreadableError."""
    query = select(
        OAuth2Grant.provider,
        OAuth2Grant.token_endpoint,
        OAuth2Grant.client_id,
        OAuth2Grant.scope,
        _seconds_until(OAuth2Grant.expires_at).label("expires_in"),
        _seconds_until(OAuth2Grant.retry_at).label("retry_in"),
    ).where(OAuth2Grant.tenant_id == tenant_id, OAuth2Grant.credential_id == credential_id)
    row = connection.execute(query.with_for_update() if lock else query).mappings().one_or_none()
    if row is None:
        raise NotFoundError("OAuth2 grant")
    # Read after locking, so that tokens which another transaction has just written are seen.
    secrets = Secrets(**json.loads(read_credential(connection, tenant_id, credential_id)))
    return StoredGrant(**row, secrets=secrets)


def store_tokens(
    connection: Connection,
    tenant_id: str,
    credential_id: str,
    secrets: Secrets,
    lifetime_seconds: int,
) -> None:
    """Keep a fresh access token and the refresh token that came with it."""
    replace_secret(connection, tenant_id, credential_id, _to_json(secrets))
    times = {"refreshed_at": func.clock_timestamp(), "expires_at": _in(lifetime_seconds), "retry_at": None}
    _change(connection, tenant_id, credential_id, **times)


def ask_later(connection: Connection, tenant_id: str, credential_id: str, seconds: float) -> None:
    """Note that the token endpoint is not to be asked again for so many seconds."""
    _change(connection, tenant_id, credential_id, retry_at=_in(seconds))


def replace_refresh_token(
    connection: Connection, tenant_id: str, credential_id: str, refresh_token: str, client_secret: str | None
) -> None:
    """Store a new refresh token after the owner has consented anew. The stored access token is deleted.

    Without a client secret the old client secret stays. Raises
    CredentialUnreadableError if the old one cannot be read.
    """
    if client_secret is None:
        client_secret = read_grant(connection, tenant_id, credential_id, lock=True).secrets.client_secret
    replace_secret(connection, tenant_id, credential_id, _to_json(Secrets(refresh_token, client_secret)))
    _change(connection, tenant_id, credential_id, expires_at=None, retry_at=None)


def _change(connection: Connection, tenant_id: str, credential_id: str, **values: Any) -> None:
    connection.execute(
        update(OAuth2Grant)
        .where(OAuth2Grant.tenant_id == tenant_id, OAuth2Grant.credential_id == credential_id)
        .values(**values)
    )


def _seconds_until(moment: Any) -> Any:
    # By PostgreSQL's clock, because clocks of hosts differ.
    return cast(func.extract("epoch", moment - func.clock_timestamp()), Float)


def _in(seconds: float) -> Any:
    return func.clock_timestamp() + func.make_interval(0, 0, 0, 0, 0, 0, seconds)


def _to_json(secrets: Secrets) -> str:
    return json.dumps(asdict(secrets))
