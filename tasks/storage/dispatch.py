"""Claims accounts whose sync is due, of all tenants.

A claimed account is neither due again nor claimed again before its sync ran or its place in the queue expired, so a
dispatcher that dies after a claim loses the account for one interval at most. Rows that another dispatcher has locked
are skipped: two at once share the work.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sqlalchemy import text

from tasks.storage.session import unbound_transaction

# Of each tenant so many in the first round, twice as many in each round that follows: the few accounts of a small
# tenant do not wait behind the many of a large one, and the large one's still are claimed in few rounds.
_FIRST_SHARE = 8

_CLAIM = text(
    """
    SELECT tenant_id, email_client_id, user_id, hostname
    FROM claim_due_accounts(:after_tenant, :max_accounts, :max_per_tenant, :queue_seconds)
    """
)
_UNCLAIM = text("SELECT unclaim_accounts(:tenant_ids, :account_ids, :wait_seconds)")


class DueAccount(NamedTuple):
    """An account whose sync is due, claimed for one dispatcher."""

    tenant_id: str
    email_client_id: str
    user_id: str
    hostname: str


def claim_due_accounts(batch: int, queue_seconds: int) -> Iterator[list[DueAccount]]:
    """Claim all accounts that are due, in batches, fair between tenants; of each tenant those due longest come first.

    Each batch is a transaction of its own, made when it is asked for. Raises StorageUnavailableError.
    """
    share = _FIRST_SHARE
    while True:
        claimed_in_round, after_tenant = 0, ""
        while due := _claim(after_tenant, batch, share, queue_seconds):
            claimed_in_round += len(due)
            after_tenant = max(account.tenant_id for account in due)
            yield due
        if not claimed_in_round:
            return
        share = min(share * 2, batch)


def unclaim_accounts(accounts: Sequence[DueAccount], wait_seconds: int = 0) -> None:
    """Give back what could not be queued: due again in `wait_seconds`."""
    with unbound_transaction() as connection:
        connection.execute(
            _UNCLAIM,
            {
                "tenant_ids": [account.tenant_id for account in accounts],
                "account_ids": [account.email_client_id for account in accounts],
                "wait_seconds": wait_seconds,
            },
        )


def _claim(after_tenant: str, batch: int, share: int, queue_seconds: int) -> list[DueAccount]:
    values = {"max_accounts": batch, "max_per_tenant": share, "queue_seconds": queue_seconds}
    with unbound_transaction() as connection:
        rows = connection.execute(_CLAIM, {"after_tenant": after_tenant, **values}).all()
    return [DueAccount._make(row) for row in rows]
