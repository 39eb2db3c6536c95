"""Views: folders that show messages of other folders a second
time. \\All, \\Flagged and \\Important, except at Gmail (RFC 6154).

If a view is synced, each message in it is one more row and one more download. So views are left out unless the
account's `all_mail` is `sync`. A view that an older release synced is still synced until a person drops its rows with
`account all-mail ACCOUNT skip`, because rows that are not kept up to date would show mail that is gone.
"""

import logging
from collections.abc import Iterable

from tasks.storage.accounts.choices import choose_all_mail
from tasks.storage.accounts.leases import owner_of, release_lease, renew_lease, take_lease
from tasks.storage.accounts.rows import Account
from tasks.storage.messages.folders import Folder, doubled_folders, remove_folders
from tasks.storage.session import tenant_transaction

logger = logging.getLogger(__name__)

_LEASE_SECONDS = 60


def left_out(account: Account, folders: Iterable[Folder]) -> frozenset[str]:
    """The paths of the views that are not synced."""
    if account.all_mail == "sync":
        return frozenset()
    views = [folder for folder in folders if folder.is_view and folder.is_selectable]
    for folder in views:
        if folder.uidvalidity is not None:
            logger.warning(
                "%s holds messages of others a second time; the command `account all-mail %s skip` drops them",
                folder.name, account.account_name,
            )  # fmt: skip
    return frozenset(folder.path for folder in views if folder.uidvalidity is None)


def skip_views(account: Account) -> int:
    """Leave views out from now on, and drop their stored messages. Returns how many messages were dropped.

    Nothing changes on the server. Raises LeaseHeldError while the account is synced, and what `take_lease` raises.
    """
    run = owner_of(f"views of {account.id}")
    take_lease(account.tenant_id, account.user_id, account.id, run, _LEASE_SECONDS)
    try:
        choose_all_mail(account, "skip")
        with tenant_transaction(account.tenant_id) as connection:
            doubled = doubled_folders(connection, account)
            # The next sync adds these folders again, without messages.
            dropped = remove_folders(connection, account, [folder.id for folder in doubled])
            renew_lease(connection, account, run, _LEASE_SECONDS)
    finally:
        release_lease(account.tenant_id, account.id, run)
    return dropped
