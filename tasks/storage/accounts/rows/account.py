"""An account as its row says, and who may read or use the row."""

from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, bindparam, case, func, or_, select

from tasks.errors import (
    AccountPausedError,
    AccountSwitchedOffError,
    LoginDelayedError,
    NotFoundError,
    SendingPausedError,
)
from tasks.registry import DUE_ACCOUNTS_SECONDS
from tasks.storage.models import EmailClient
from tasks.storage.session import tenant_transaction, unbound_transaction


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
    watch: str
    watched_since: datetime | None
    watch_problem: str | None
    refused_extensions: dict[str, Any]
    is_enabled: bool
    is_sync_enabled: bool
    sync_interval: int
    last_sync_at: datetime | None
    next_sync_at: datetime
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

    @property
    def has_synced(self) -> bool:
        """Whether the first sync of the whole account is done, so that events tell of its messages and folders."""
        return self.last_sync_at is not None


# By PostgreSQL's clock, because clocks of hosts differ.
WAITING = {
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
        and_(
            EmailClient.watched_since.is_(None),
            or_(
                func.coalesce(EmailClient.last_sync_at, EmailClient.created_at) < func.now() - _LATEST,
                EmailClient.next_sync_at > func.now() + _LATEST,  # PostgreSQL's clock was set back since
            ),
        ),
        # A mailbox that is watched is polled more rarely, but then as punctually.
        and_(EmailClient.watched_since.is_not(None), EmailClient.next_sync_at < func.now() - _LATEST),
    ),
)
_COMPUTED = {**WAITING, "is_overdue": _IS_OVERDUE.label("is_overdue"), "read_at": func.now().label("read_at")}
COLUMNS = [_COMPUTED[name] if name in _COMPUTED else EmailClient.__table__.c[name] for name in Account._fields]
# The statement is made once, because every task begins with it.
_GET = select(*COLUMNS).where(
    EmailClient.tenant_id == bindparam("tenant_id"),
    EmailClient.user_id == bindparam("user_id"),
    EmailClient.id == bindparam("account_id"),
)


def list_tenants() -> list[str]:
    """All tenants that have accounts, in order."""
    with unbound_transaction() as connection:
        return list(connection.scalars(select(func.tenants_with_accounts())))


def list_accounts(tenant_id: str) -> list[Account]:
    """All accounts of a tenant, by name."""
    with tenant_transaction(tenant_id) as connection:
        rows = connection.execute(
            select(*COLUMNS).where(EmailClient.tenant_id == tenant_id).order_by(EmailClient.account_name)
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


def is_row_of(account: Account) -> tuple[ColumnElement[bool], ...]:
    """The conditions for the account's row of email_client."""
    return EmailClient.tenant_id == account.tenant_id, EmailClient.id == account.id


def locked(connection: Connection, account: Account) -> Account:
    """The account as its row says now, with the row locked for this transaction. Raises NotFoundError."""
    # The row is read again, because another transaction may have changed it since `account` was read.
    row = connection.execute(select(*COLUMNS).where(*is_row_of(account)).with_for_update()).one_or_none()
    if row is None:
        raise NotFoundError("account")
    return Account._make(row)


def _require_due(account: Account, retry_at: datetime | None, error: str | None) -> None:
    if retry_at is not None:
        seconds = max((retry_at - account.read_at).total_seconds(), 1)
        raise LoginDelayedError(f"{account.account_name}: {error or ''}", seconds)


def _require_enabled(account: Account) -> None:
    if not account.is_enabled:
        raise AccountSwitchedOffError(account.account_name)
