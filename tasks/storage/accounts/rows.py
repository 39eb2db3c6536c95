"""Mailbox accounts: who they belong to, how to reach them, and how their last sync went."""

from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, bindparam, case, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from tasks.errors import (
    AccountPausedError,
    AccountSwitchedOffError,
    EmailError,
    LoginDelayedError,
    NotFoundError,
    PermanentError,
    SendingPausedError,
    SmtpServerMissingError,
)
from tasks.mail.kinds import MailProtocol
from tasks.mail.message import PARSER_VERSION
from tasks.registry import DUE_ACCOUNTS_SECONDS
from tasks.settings import get_settings
from tasks.storage.accounts.grants import Grant, add_grant, replace_refresh_token
from tasks.storage.credentials import OAUTH2, add_credential, kind_of, read_credential, remove_credential
from tasks.storage.ids import new_id
from tasks.storage.models import EmailClient
from tasks.storage.session import tenant_transaction, unbound_transaction


class AccountExistsError(PermanentError):
    """An account of this name exists already."""

    code = "account_exists"


class NewAccount(NamedTuple):
    """What a person gives to register an account. `password` is a password or an OAuth2 grant.

    Messages are left on a POP3 server for `pop3_keep_days` after they were stored; None: for ever. Without
    `smtp_username` and `smtp_password` the SMTP server gets the login of the mailbox.
    """

    account_name: str
    email_address: str
    hostname: str
    port: int
    encryption: str
    username: str
    password: str | Grant
    protocol: str = MailProtocol.IMAP
    pop3_keep_days: int | None = None
    smtp_hostname: str | None = None
    smtp_port: int | None = None
    smtp_encryption: str | None = None
    smtp_username: str | None = None
    smtp_password: str | None = None
    sent_copies: str = "auto"
    all_mail: str = "skip"


class Account(NamedTuple):
    """A row of email_client, without its lease and its secret, as it was at `read_at` by PostgreSQL's clock.

    Times until which a login waits are None once they have passed. The account `is_overdue` if no error of it is
    known, but a sync that should have begun by now did not.
    """

    tenant_id: str
    id: str
    user_id: str
    account_name: str
    email_address: str
    protocol: str
    hostname: str
    port: int
    encryption: str
    username: str
    credential_id: str
    pop3_keep_days: int | None
    smtp_hostname: str | None
    smtp_port: int | None
    smtp_encryption: str | None
    smtp_username: str | None
    smtp_credential_id: str | None
    sent_copies: str
    all_mail: str
    refused_extensions: dict[str, Any]
    is_enabled: bool
    is_sync_enabled: bool
    sync_interval: int
    last_sync_at: datetime | None
    paused_at: datetime | None
    last_error_code: str | None
    last_error: str | None
    last_error_at: datetime | None
    login_mechanism: str | None
    login_refused_since: datetime | None
    login_failures: int
    login_retry_at: datetime | None
    smtp_paused_at: datetime | None
    smtp_last_error: str | None
    smtp_login_mechanism: str | None
    smtp_login_refused_since: datetime | None
    smtp_login_failures: int
    smtp_login_retry_at: datetime | None
    is_overdue: bool
    read_at: datetime


_NO_ERROR = {
    "paused_at": None,
    "last_error_code": None,
    "last_error": None,
    "last_error_at": None,
    "failing_since": None,
    "sync_queued_at": None,
    "login_refused_since": None,
    "login_failures": 0,
    "login_retry_at": None,
}
_SENDS_AGAIN = {
    "smtp_paused_at": None,
    "smtp_last_error": None,
    "smtp_login_refused_since": None,
    "smtp_login_failures": 0,
    "smtp_login_retry_at": None,
}
# Columns for a new secret, with which no login has worked yet.
_NEW_SECRET = {**_NO_ERROR, "login_mechanism": None}
_NEW_SMTP_SECRET = {**_SENDS_AGAIN, "smtp_login_mechanism": None}
# Columns for a new mailbox secret, for accounts whose SMTP server gets the same secret.
_NEW_SMTP_SECRET_WITH_IT = {
    name: case((EmailClient.smtp_credential_id.is_(None), value), else_=EmailClient.__table__.c[name])
    for name, value in _NEW_SMTP_SECRET.items()
}
# As early as the function for claims sets it, see migration 0004.
_NEXT_BY_SCHEDULE = func.now() + EmailClient.sync_interval * timedelta(seconds=0.9)
# A failing account is tried again after as long as it has been failing, so each wait is twice the wait before. The
# random part keeps the accounts of a server that was down from being synced all at once.
_MAX_WAIT_SECONDS = timedelta(hours=6)
_NEXT_AFTER_FAILURE = func.now() + (0.75 + 0.25 * func.random()) * func.least(
    func.greatest(
        EmailClient.sync_interval * timedelta(seconds=1),
        func.now() - func.coalesce(EmailClient.failing_since, func.now()),
    ),
    _MAX_WAIT_SECONDS,
)
# By PostgreSQL's clock, because clocks of hosts differ.
_WAITING = {
    name: case((EmailClient.__table__.c[name] > func.now(), EmailClient.__table__.c[name])).label(name)
    for name in ("login_retry_at", "smtp_login_retry_at")
}
# Beat looks for due accounts every DUE_ACCOUNTS_SECONDS, so a sync begins at the next multiple of that time.
_LATEST_SECONDS = (func.ceil(EmailClient.sync_interval / float(DUE_ACCOUNTS_SECONDS)) + 0.5) * DUE_ACCOUNTS_SECONDS
_LATEST = func.make_interval(0, 0, 0, 0, 0, 0, _LATEST_SECONDS)
_IS_OVERDUE = and_(
    EmailClient.is_enabled,
    EmailClient.is_sync_enabled,
    EmailClient.paused_at.is_(None),
    EmailClient.last_error_code.is_(None),
    func.coalesce(EmailClient.lease_until, "-infinity") <= func.now(),
    or_(
        func.coalesce(EmailClient.last_sync_at, EmailClient.created_at) < func.now() - _LATEST,
        EmailClient.next_sync_at > func.now() + _LATEST,  # PostgreSQL's clock was set back since
    ),
)
_COMPUTED = {**_WAITING, "is_overdue": _IS_OVERDUE.label("is_overdue"), "read_at": func.now().label("read_at")}
_COLUMNS = [_COMPUTED[name] if name in _COMPUTED else EmailClient.__table__.c[name] for name in Account._fields]
# The statement is made once, because every task begins with it.
_GET = select(*_COLUMNS).where(
    EmailClient.tenant_id == bindparam("tenant_id"),
    EmailClient.user_id == bindparam("user_id"),
    EmailClient.id == bindparam("account_id"),
)


def add_account(tenant_id: str, user_id: str, new: NewAccount) -> str:
    """Register an account with its secret encrypted, and return its id. Raises AccountExistsError."""
    account_id = new_id()
    try:
        with tenant_transaction(tenant_id) as connection:
            columns = new._asdict()
            # Host names ignore case (RFC 4343), and connections to a host are counted by its name.
            columns |= {name: columns[name] and columns[name].lower() for name in ("hostname", "smtp_hostname")}
            password, smtp_password = columns.pop("password"), columns.pop("smtp_password")
            if isinstance(password, Grant):
                columns["credential_id"] = add_grant(connection, tenant_id, password)
            else:
                columns["credential_id"] = add_credential(connection, tenant_id, password)
            if smtp_password is not None:
                columns["smtp_credential_id"] = add_credential(connection, tenant_id, smtp_password)
            connection.execute(
                insert(EmailClient).values(
                    tenant_id=tenant_id,
                    id=account_id,
                    user_id=user_id,
                    sync_interval=get_settings().sync.interval_seconds,
                    reread_version=PARSER_VERSION,
                    # A worker of the release before, with an older parser, may make the first sync.
                    reread_again_at=func.now() + timedelta(days=1),
                    **columns,
                )
            )
    except IntegrityError as error:
        if "account_name" in str(error.orig):
            raise AccountExistsError(new.account_name) from None
        raise
    return account_id


def list_tenants() -> list[str]:
    """All tenants that have accounts, in order."""
    with unbound_transaction() as connection:
        return list(connection.scalars(select(func.tenants_with_accounts())))


def list_accounts(tenant_id: str) -> list[Account]:
    """All accounts of a tenant, by name."""
    with tenant_transaction(tenant_id) as connection:
        rows = connection.execute(
            select(*_COLUMNS).where(EmailClient.tenant_id == tenant_id).order_by(EmailClient.account_name)
        )
        return [Account._make(row) for row in rows]


def find_account(tenant_id: str, name_or_id: str) -> Account:
    """The account with this id, else with this name. Raises NotFoundError, also if several accounts have the name."""
    accounts = list_accounts(tenant_id)
    found = [account for account in accounts if account.id == name_or_id] or [
        account for account in accounts if account.account_name == name_or_id
    ]
    if len(found) != 1:
        raise NotFoundError(f"account {name_or_id}" if not found else f"{len(found)} accounts are named {name_or_id}")
    return found[0]


def get_account(connection: Connection, tenant_id: str, user_id: str, account_id: str) -> Account:
    """The caller's account. Raises NotFoundError for an account
    that is not the caller's, whether or not it exists."""
    own = {"tenant_id": tenant_id, "user_id": user_id, "account_id": account_id}
    row = connection.execute(_GET, own).one_or_none()
    if row is None:
        raise NotFoundError("account")
    return Account._make(row)


def require_mailbox(account: Account) -> None:
    """Raises AccountPausedError if receiving is paused: nothing
    logs in at the IMAP or POP3 server until a person acts.

    Raises LoginDelayedError where the next login is not due yet, and AccountSwitchedOffError, too.
    """
    _require_enabled(account)
    if account.paused_at is not None:
        raise AccountPausedError(f"{account.account_name}: {account.last_error or ''}")
    _require_due(account, account.login_retry_at, account.last_error)


def require_sending(account: Account) -> None:
    """Raises SendingPausedError if sending is paused: nothing logs in at the SMTP server until a person acts.

    Raises LoginDelayedError where the next login is not due yet, and AccountSwitchedOffError, too.
    """
    _require_enabled(account)
    if account.smtp_paused_at is not None:
        raise SendingPausedError(f"{account.account_name}: {account.smtp_last_error or ''}")
    _require_due(account, account.smtp_login_retry_at, account.smtp_last_error)


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
        old = _locked(connection, account).credential_id
        new = add_credential(connection, account.tenant_id, password)
        connection.execute(
            update(EmailClient)
            .where(*is_row_of(account))
            .values(credential_id=new, **_NEW_SECRET, **_NEW_SMTP_SECRET_WITH_IT, next_sync_at=func.now())
        )
        remove_credential(connection, account.tenant_id, old)


def change_smtp_password(account: Account, password: str) -> None:
    """Store a password for the SMTP server alone, or replace it. A pause of sending ends.

    Raises SmtpServerMissingError where the account has no SMTP server, and NotFoundError.
    """
    with tenant_transaction(account.tenant_id) as connection:
        found = _locked(connection, account)
        if found.smtp_hostname is None:
            raise SmtpServerMissingError(account.account_name)
        new = add_credential(connection, account.tenant_id, password)
        connection.execute(
            update(EmailClient).where(*is_row_of(account)).values(smtp_credential_id=new, **_NEW_SMTP_SECRET)
        )
        if found.smtp_credential_id is not None:
            remove_credential(connection, account.tenant_id, found.smtp_credential_id)


def change_refresh_token(account: Account, refresh_token: str, client_secret: str | None) -> None:
    """Store a new refresh token after its owner has consented anew. Errors and pauses of the old secret are cleared.

    Without a client secret the old client secret stays. Raises NotFoundError and CredentialUnreadableError.
    """
    with tenant_transaction(account.tenant_id) as connection:
        credential_id = _locked(connection, account).credential_id
        replace_refresh_token(connection, account.tenant_id, credential_id, refresh_token, client_secret)
        connection.execute(
            update(EmailClient)
            .where(*is_row_of(account))
            .values(**_NEW_SECRET, **_NEW_SMTP_SECRET_WITH_IT, next_sync_at=func.now())
        )


def remove_account(account: Account) -> None:
    """Remove the account with its folders, messages and secrets."""
    with tenant_transaction(account.tenant_id) as connection:
        # The row is read again, because the account may have got other secrets since `account` was read.
        secrets = connection.execute(
            delete(EmailClient)
            .where(*is_row_of(account))
            .returning(EmailClient.credential_id, EmailClient.smtp_credential_id)
        ).one_or_none()
        for credential_id in filter(None, secrets or ()):
            remove_credential(connection, account.tenant_id, credential_id)


def record_success(connection: Connection, account: Account, *, whole_account: bool) -> None:
    """Note that the mailbox works: errors and a pause are cleared.

    With `whole_account` the account counts as synced now.
    """
    values = {"last_sync_at": func.now()} if whole_account else {}
    connection.execute(
        update(EmailClient)
        .where(*is_row_of(account))
        .values(**_NO_ERROR, next_sync_at=func.least(EmailClient.next_sync_at, _NEXT_BY_SCHEDULE), **values)
    )


def record_incomplete(connection: Connection, account: Account, error: EmailError) -> None:
    """Note that the mailbox works but messages are missing: shown
    like an error, but the account is synced at its interval."""
    values = {"last_error_code": error.code, "last_error": str(error), "last_error_at": func.now()}
    connection.execute(update(EmailClient).where(*is_row_of(account)).values(**values))


def clear_error(account: Account) -> None:
    """Note that the mailbox works again: clear its error and its pause, so that its next sync is due."""
    with tenant_transaction(account.tenant_id) as connection:
        connection.execute(
            update(EmailClient).where(*is_row_of(account)).values(**_NO_ERROR, next_sync_at=func.now())
        )


def record_failure(account: Account, error: EmailError) -> None:
    """Store an error on the account, where its owner sees it. Pauses are set in `storage.accounts.logins`."""
    with tenant_transaction(account.tenant_id) as connection:
        connection.execute(
            update(EmailClient)
            .where(*is_row_of(account))
            .values(
                last_error_code=error.code,
                last_error=str(error),
                last_error_at=func.now(),
                failing_since=func.coalesce(EmailClient.failing_since, func.now()),
                sync_queued_at=None,
                next_sync_at=func.coalesce(_WAITING["login_retry_at"].element, _NEXT_AFTER_FAILURE),
            )
        )


def resume_sending(account: Account) -> None:
    """Note that the SMTP server takes the login again: a pause of sending ends."""
    with tenant_transaction(account.tenant_id) as connection:
        connection.execute(update(EmailClient).where(*is_row_of(account)).values(**_SENDS_AGAIN))


def _require_due(account: Account, retry_at: datetime | None, error: str | None) -> None:
    if retry_at is not None:
        seconds = max((retry_at - account.read_at).total_seconds(), 1)
        raise LoginDelayedError(f"{account.account_name}: {error or ''}", seconds)


def _require_enabled(account: Account) -> None:
    if not account.is_enabled:
        raise AccountSwitchedOffError(account.account_name)


def _locked(connection: Connection, account: Account) -> Account:
    # The row is read again, because another transaction may have changed it since `account` was read.
    row = connection.execute(select(*_COLUMNS).where(*is_row_of(account)).with_for_update()).one_or_none()
    if row is None:
        raise NotFoundError("account")
    return Account._make(row)


def is_row_of(account: Account) -> tuple[ColumnElement[bool], ...]:
    """The conditions for the account's row of email_client."""
    return EmailClient.tenant_id == account.tenant_id, EmailClient.id == account.id
