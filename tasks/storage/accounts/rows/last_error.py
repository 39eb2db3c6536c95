"""What the last sync, or the last login, says of an account, and when the next sync is due."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, case, func, update

from tasks.errors import EmailError
from tasks.settings import get_settings
from tasks.storage.accounts.rows.account import WAITING, Account, is_row_of
from tasks.storage.accounts.rows.standing import change_account
from tasks.storage.models import EmailClient
from tasks.storage.session import tenant_transaction

NO_ERROR: Mapping[str, Any] = {
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
SENDS_AGAIN: Mapping[str, Any] = {
    "smtp_paused_at": None,
    "smtp_last_error": None,
    "smtp_login_refused_since": None,
    "smtp_login_failures": 0,
    "smtp_login_retry_at": None,
}
# As early as the function for claims sets it, see migration 0004.
_NEXT_BY_SCHEDULE = func.now() + EmailClient.sync_interval * timedelta(seconds=0.9)
_RANDOM_PART = 0.75 + 0.25 * func.random()
_INTERVAL = EmailClient.sync_interval * timedelta(seconds=1)
# A failing account is tried again after as long as it has been failing, so each wait is twice the wait before. The
# random part keeps the accounts of a server that was down from being synced all at once.
_MAX_WAIT_SECONDS = timedelta(hours=6)
_NEXT_AFTER_FAILURE = func.now() + _RANDOM_PART * func.least(
    func.greatest(_INTERVAL, func.now() - func.coalesce(EmailClient.failing_since, func.now())), _MAX_WAIT_SECONDS
)
_NEXT_AFTER_FIRST_FAILURE = func.now() + _RANDOM_PART * func.least(_INTERVAL, _MAX_WAIT_SECONDS)


def record_success(
    connection: Connection, account: Account, *, whole_account: bool, failed: EmailError | None = None
) -> None:
    """Note that the mailbox works: errors and a pause are cleared, but for what `failed` all the same.

    With `whole_account` the account counts as synced now. While a watcher is told of its changes, its next sync by
    schedule is after WATCH_POLL_SECONDS.
    """
    rarely = func.greatest(EmailClient.sync_interval, get_settings().watch.poll_seconds) * timedelta(seconds=0.9)
    next_if_watched = func.now() + rarely if whole_account else EmailClient.next_sync_at
    next_sync_at = case(
        (EmailClient.watched_since.is_not(None), next_if_watched),
        else_=func.least(EmailClient.next_sync_at, _NEXT_BY_SCHEDULE),
    )
    values: dict[str, Any] = {**NO_ERROR, "next_sync_at": next_sync_at}
    if failed:
        values |= {**_shown(failed), "failing_since": func.now(), "next_sync_at": _NEXT_AFTER_FIRST_FAILURE}
    if whole_account:
        values["last_sync_at"] = func.now()
    change_account(connection, account, values)


def record_incomplete(connection: Connection, account: Account, error: EmailError) -> None:
    """Note that the mailbox works but messages are missing: shown
    like an error, but the account is synced at its interval."""
    connection.execute(update(EmailClient).where(*is_row_of(account)).values(**_shown(error)))


def record_failure(account: Account, error: EmailError) -> None:
    """Store an error on the account, where its owner sees it. Pauses are set in `storage.accounts.logins`."""
    with tenant_transaction(account.tenant_id) as connection:
        change_account(
            connection,
            account,
            {
                **_shown(error),
                "failing_since": func.coalesce(EmailClient.failing_since, func.now()),
                "sync_queued_at": None,
                "next_sync_at": func.coalesce(WAITING["login_retry_at"].element, _NEXT_AFTER_FAILURE),
            },
        )


def clear_error(account: Account) -> None:
    """Note that the mailbox works again: clear its error and its pause, so that its next sync is due."""
    with tenant_transaction(account.tenant_id) as connection:
        change_account(connection, account, {**NO_ERROR, "next_sync_at": func.now()})


def resume_sending(account: Account) -> None:
    """Note that the SMTP server takes the login again: a pause of sending ends."""
    with tenant_transaction(account.tenant_id) as connection:
        change_account(connection, account, SENDS_AGAIN)


def _shown(error: EmailError) -> dict[str, Any]:
    return {"last_error_code": error.code, "last_error": str(error), "last_error_at": func.now()}
