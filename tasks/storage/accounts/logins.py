"""What happens to an account after its login worked, failed or was refused; separately for receiving and sending.

    worked    nothing is written, unless this login is the first that worked, or the first after logins that failed,
              or used another mechanism than the last login.
    failed    the server did not say that user name or password are wrong. The login is tried again after minutes, and
              each wait is twice the wait before.
    refused   the server said that user name or password are wrong. If the secret never worked, the side is paused at
              once. If it worked before, the login is tried again as above, at least once an hour, because providers
              refuse right passwords while they are in trouble. The first refusal after MAIL_LOGIN_PATIENCE_HOURS of
              refusals pauses the side.
    paused    nothing logs in until a person stores another secret or tries the account.

Before `login_retry_at` no task logs in, so that no provider locks the
account for too many tries. After that time one task alone tries first.
"""

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, case, func, update

from tasks.errors import (
    AuthenticationFailedError,
    EmailError,
    LoginDelayedError,
    LoginFailedError,
    LoginRefusedError,
)
from tasks.settings import get_settings
from tasks.storage.accounts.rows import Account, is_row_of
from tasks.storage.accounts.rows.standing import change_account, standing_of
from tasks.storage.models import EmailClient
from tasks.storage.session import tenant_transaction

_FIRST_WAIT = timedelta(minutes=5)
# The longest wait after a refusal, which pauses the account if repeated, and after a failure, which never does.
_MAX_WAIT_REFUSED_SECONDS = timedelta(hours=1)
_MAX_WAIT_FAILED_SECONDS = timedelta(hours=6)
# How long other tasks leave the first try to one task: longer than a login takes.
_ONE_TRY = timedelta(minutes=2)
# Waits are not doubled more often than this, as they have reached their maximum by then.
_MAX_DOUBLINGS = 10


class Side(NamedTuple):
    """One of the two sides of an account, receiving or sending. Its columns begin with `prefix`."""

    prefix: str
    used_secret: ColumnElement[str]

    def column(self, name: str) -> ColumnElement[Any]:
        """The column of this side with this name."""
        return EmailClient.__table__.c[self.prefix + name]

    def of(self, account: Account, name: str) -> object:
        """The value of this side's column when the account was read."""
        return getattr(account, self.prefix + name)

    def secret_of(self, account: Account) -> str:
        """The id of the credential with which this side logs in."""
        return (account.smtp_credential_id if self.prefix else None) or account.credential_id


RECEIVING = Side("", EmailClient.__table__.c.credential_id)
SENDING = Side("smtp_", func.coalesce(EmailClient.smtp_credential_id, EmailClient.credential_id))


def mechanism_of(account: Account, side: Side) -> str | None:
    """The mechanism of the account's last login that worked; None where no login has worked."""
    mechanism = side.of(account, "login_mechanism")
    return str(mechanism) if mechanism is not None else None


def begin_login(account: Account, side: Side) -> None:
    """Note that a login is about to be tried. Costs a statement only if the login before failed.

    Raises LoginDelayedError where another task is trying, or tried meanwhile.
    """
    if not side.of(account, "login_failures"):
        return
    retry_at = side.column("login_retry_at")
    # A try that a person asks for goes ahead although the next login is not due, if no task tried meanwhile.
    is_first = func.coalesce(retry_at <= func.now(), True) | (retry_at == side.of(account, "login_retry_at"))
    until = _prefixed(side, {"login_retry_at": func.greatest(retry_at, func.now() + _ONE_TRY)})
    with tenant_transaction(account.tenant_id) as connection:
        if not connection.execute(update(EmailClient).where(*is_row_of(account), is_first).values(until)).rowcount:
            words = f"{account.account_name}: another task tries to log in; {side.of(account, 'last_error') or ''}"
            raise LoginDelayedError(words, _ONE_TRY.total_seconds())


def note_login(account: Account, side: Side, mechanism: str) -> None:
    """Note that a login worked. Costs a statement only if the account's row changes."""
    if mechanism == mechanism_of(account, side) and not side.of(account, "login_failures"):
        return
    values: dict[str, object] = {
        "login_mechanism": mechanism,
        "login_refused_since": None,
        "login_failures": 0,
        "login_retry_at": None,
    }
    if side is SENDING:
        values |= {"paused_at": None, "last_error": None}
    with tenant_transaction(account.tenant_id) as connection:
        change_account(connection, account, _prefixed(side, values), side.used_secret == side.secret_of(account))


def note_refusal(account: Account, side: Side, error: EmailError) -> EmailError:
    """Note that a login was refused or failed. Returns the error to raise, which says whether the side is paused or
    the login is tried again, and when.

    `error` is an AuthenticationFailedError if the server said that user name or
    password are wrong; any other error means that it did not say so. If the secret
    was changed meanwhile, the refusal was of the old secret, and nothing is noted.
    """
    with tenant_transaction(account.tenant_id) as connection:
        before = standing_of(connection, account, side.used_secret == side.secret_of(account))
        if before is None:
            return LoginFailedError(f"{error.detail}; its password was changed meanwhile", 1)
        row = connection.execute(
            update(EmailClient)
            .where(*is_row_of(account))
            .values(_counted(side, is_clear=isinstance(error, AuthenticationFailedError)))
            .returning(*map(side.column, ("paused_at", "login_refused_since", "login_retry_at")), func.now())
        ).one()
        outcome = _outcome(error, *row)
        shown = {**_shown(side, outcome), **_schedule(side, row[2])}
        # The event has the code of the error, so it is written with that.
        change_account(connection, account, shown, before=before)
    return outcome


def _counted(side: Side, *, is_clear: bool) -> dict[str, object]:
    now, failures, paused_at = func.now(), side.column("login_failures"), side.column("paused_at")
    waits = func.power(2, func.least(failures, _MAX_DOUBLINGS)) * _FIRST_WAIT
    longest = _MAX_WAIT_REFUSED_SECONDS if is_clear else _MAX_WAIT_FAILED_SECONDS
    values: dict[str, object] = {"login_failures": failures + 1, "login_retry_at": now + func.least(waits, longest)}
    if is_clear:
        since = func.coalesce(side.column("login_refused_since"), now)
        patience = timedelta(hours=get_settings().mail.login_patience_hours)
        pauses = side.column("login_mechanism").is_(None) | (now - since >= patience)
        values |= {
            "login_refused_since": since,
            "paused_at": case((pauses, func.coalesce(paused_at, now)), else_=paused_at),
        }
    return _prefixed(side, values)


def _outcome(
    error: EmailError, paused_at: datetime | None, since: datetime | None, retry_at: datetime, now: datetime
) -> EmailError:
    if isinstance(error, AuthenticationFailedError) and paused_at is not None:
        return error
    wait = (retry_at - now).total_seconds()
    next_try = f"the next try is at {_clock(retry_at)}"
    if isinstance(error, AuthenticationFailedError) and since is not None:
        return LoginRefusedError(f"{error.detail}; refused since {_clock(since)}, {next_try}", wait)
    return LoginFailedError(f"{error.detail}; {next_try}", wait)


def _shown(side: Side, error: EmailError) -> dict[str, object]:
    shown: dict[str, object] = {"last_error": str(error)}
    if side is RECEIVING:
        shown |= {"last_error_code": error.code, "last_error_at": func.now()}
    return _prefixed(side, shown)


def _schedule(side: Side, retry_at: datetime) -> dict[str, object]:
    """Columns that make the next sync due at the time of the next login."""
    if side is SENDING:
        return {}
    failing_since = func.coalesce(EmailClient.failing_since, func.now())
    return {"next_sync_at": retry_at, "sync_queued_at": None, "failing_since": failing_since}


def _clock(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _prefixed(side: Side, values: dict[str, object]) -> dict[str, object]:
    return {side.prefix + name: value for name, value in values.items()}
