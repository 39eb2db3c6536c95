"""The secrets of an account are read and replaced."""

from sqlalchemy import case, func

from tasks.errors import SmtpServerMissingError
from tasks.storage.accounts.grants import replace_refresh_token
from tasks.storage.accounts.rows.account import Account, locked
from tasks.storage.accounts.rows.last_error import NO_ERROR, SENDS_AGAIN
from tasks.storage.accounts.rows.standing import change_account
from tasks.storage.credentials import OAUTH2, add_credential, kind_of, read_credential, remove_credential
from tasks.storage.models import EmailClient
from tasks.storage.session import tenant_transaction

# Columns for a new secret, with which no login has worked yet.
_NEW_SECRET = {**NO_ERROR, "login_mechanism": None}
_NEW_SMTP_SECRET = {**SENDS_AGAIN, "smtp_login_mechanism": None}
# Columns for a new mailbox secret, for accounts whose SMTP server gets the same secret.
_NEW_SMTP_SECRET_WITH_IT = {
    name: case((EmailClient.smtp_credential_id.is_(None), value), else_=EmailClient.__table__.c[name])
    for name, value in _NEW_SMTP_SECRET.items()
}
_WORKS_AGAIN = {**_NEW_SECRET, **_NEW_SMTP_SECRET_WITH_IT, "next_sync_at": func.now()}


def read_secret(account: Account, credential_id: str) -> str:
    """One of the account's secrets. Raises CredentialUnreadableError."""
    with tenant_transaction(account.tenant_id) as connection:
        return read_credential(connection, account.tenant_id, credential_id)


def uses_oauth2(account: Account) -> bool:
    """Whether the account logs in with tokens."""
    with tenant_transaction(account.tenant_id) as connection:
        return kind_of(connection, account.tenant_id, account.credential_id) == OAUTH2


def change_password(account: Account, password: str) -> None:
    """Store a new password instead of the old secret. Errors and pauses of the old secret are cleared.

    Raises NotFoundError.
    """
    with tenant_transaction(account.tenant_id) as connection:
        old = locked(connection, account).credential_id
        new = add_credential(connection, account.tenant_id, password)
        change_account(connection, account, {"credential_id": new, **_WORKS_AGAIN})
        remove_credential(connection, account.tenant_id, old)


def change_smtp_password(account: Account, password: str) -> None:
    """Store a password for the SMTP server alone, or replace it. A pause of sending ends.

    Raises SmtpServerMissingError where the account has no SMTP server, and NotFoundError.
    """
    with tenant_transaction(account.tenant_id) as connection:
        found = locked(connection, account)
        if found.smtp_hostname is None:
            raise SmtpServerMissingError(account.account_name)
        new = add_credential(connection, account.tenant_id, password)
        change_account(connection, account, {"smtp_credential_id": new, **_NEW_SMTP_SECRET})
        if found.smtp_credential_id is not None:
            remove_credential(connection, account.tenant_id, found.smtp_credential_id)


def change_refresh_token(account: Account, refresh_token: str, client_secret: str | None) -> None:
    """Store a new refresh token after its owner has consented anew. Errors and pauses of the old secret are cleared.

    Without a client secret the old client secret stays. Raises NotFoundError and CredentialUnreadableError.
    """
    with tenant_transaction(account.tenant_id) as connection:
        credential_id = locked(connection, account).credential_id
        replace_refresh_token(connection, account.tenant_id, credential_id, refresh_token, client_secret)
        change_account(connection, account, _WORKS_AGAIN)
