"""Mailbox accounts: who they belong to, how to reach them, and how their last sync went."""

from tasks.storage.accounts.rows.account import (
    Account,
    find_account,
    get_account,
    is_row_of,
    list_accounts,
    list_tenants,
    require_mailbox,
    require_sending,
)
from tasks.storage.accounts.rows.last_error import (
    clear_error,
    record_failure,
    record_incomplete,
    record_success,
    resume_sending,
)
from tasks.storage.accounts.rows.registration import AccountExistsError, NewAccount, add_account, remove_account
from tasks.storage.accounts.rows.secrets import (
    change_password,
    change_refresh_token,
    change_smtp_password,
    read_secret,
    uses_oauth2,
)

__all__ = [
    "Account",
    "AccountExistsError",
    "NewAccount",
    "add_account",
    "change_password",
    "change_refresh_token",
    "change_smtp_password",
    "clear_error",
    "find_account",
    "get_account",
    "is_row_of",
    "list_accounts",
    "list_tenants",
    "read_secret",
    "record_failure",
    "record_incomplete",
    "record_success",
    "remove_account",
    "require_mailbox",
    "require_sending",
    "resume_sending",
    "uses_oauth2",
]
