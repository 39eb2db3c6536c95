"""What failed last, over all tenants: a few rows for the status page. Each is read from an index, with no sort."""

from typing import NamedTuple

from sqlalchemy import text

from tasks.storage.counts import patiently

_ACCOUNTS = text("SELECT * FROM newest_failing_accounts(:most)")
_LETTERS = text("SELECT * FROM newest_dead_letters(:most)")


class FailingAccount(NamedTuple):
    """An account whose syncs have failed for so many seconds. Texts are cut."""

    tenant_id: str
    id: str
    account_name: str
    hostname: str
    error_code: str | None
    error: str | None
    is_paused: bool
    seconds: float


class NewLetter(NamedTuple):
    """A task that failed for good so many seconds ago. Texts are cut."""

    tenant_id: str
    id: str
    task_name: str
    error_code: str
    error: str
    attempts: int
    is_retried: bool
    seconds: float


def newest_failing_accounts(most: int) -> list[FailingAccount]:
    """The accounts that began to fail last, the newest first; at most 100."""
    with patiently() as connection:
        return [FailingAccount._make(row) for row in connection.execute(_ACCOUNTS, {"most": most})]


def newest_dead_letters(most: int) -> list[NewLetter]:
    """The tasks that failed for good last, the newest first; at most 100."""
    with patiently() as connection:
        return [NewLetter._make(row) for row in connection.execute(_LETTERS, {"most": most})]
