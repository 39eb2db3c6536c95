"""Claims accounts whose sync is due, of all tenants.

A claimed account is neither due again nor claimed again before its sync ran or its place in the queue expired, so a
dispatcher that dies after a claim loses the account for one interval at most. Rows that another dispatcher has locked
are skipped: two at once share the work.
"""

from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, NamedTuple

from sqlalchemy import text

from tasks.storage.session import unbound_transaction

# Of each tenant so many in the first round, and more in each that follows: the few accounts of a small tenant do not
# wait behind the many of a large one, and the large one's still are claimed in few rounds.
_FIRST_SHARE, _GROWTH = 8, 4

_CLAIM = text(
    """
    SELECT tenant_id, email_client_id, user_id, hostname
    FROM claim_due_accounts(:after_tenant, :is_inclusive, :max_accounts, :max_per_tenant, :queue_seconds)
    """
)
_UNCLAIM = text("SELECT unclaim_accounts(:tenant_ids, :account_ids, :wait_seconds)")


class DueAccount(NamedTuple):
    """An account whose sync is due, claimed for one dispatcher."""

    tenant_id: str
    email_client_id: str
    user_id: str
    hostname: str


def claim_due_accounts(batch: int, queue_seconds: int) -> Generator[list[DueAccount], None, None]:
    """Claim all accounts that are due, in batches, fair between tenants; of each tenant those due longest come first.

    Each batch is a transaction of its own, made while the one before it is worked on. Closed early, the generator
    gives back the batch that nobody asked for. Raises StorageUnavailableError.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="claim") as ahead, closing(_claims(batch, queue_seconds)) as claims:
        coming = ahead.submit(next, claims, None)
        try:
            while due := coming.result():
                coming = ahead.submit(next, claims, None)
                yield due
        finally:
            if unasked := coming.result():
                unclaim_accounts(unasked)


def _claims(batch: int, queue_seconds: int) -> Generator[list[DueAccount], None, None]:
    share = _FIRST_SHARE
    while share < batch and (yield from _claim_of_each(share, batch, queue_seconds)):
        share *= _GROWTH
    yield from _claim_of_each(batch, batch, queue_seconds)


def _claim_of_each(share: int, batch: int, queue_seconds: int) -> Generator[list[DueAccount], None, bool]:
    """Claim up to `share` accounts of each tenant in turn, or all where that is a whole batch; whether any."""
    claim: dict[str, Any] = {"max_accounts": batch, "max_per_tenant": share, "queue_seconds": queue_seconds}
    claim |= {"after_tenant": "", "is_inclusive": share >= batch}
    while due := _claim(claim):
        yield due
        claim["after_tenant"] = max(account.tenant_id for account in due)
    return bool(claim["after_tenant"])


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


def _claim(values: dict[str, Any]) -> list[DueAccount]:
    with unbound_transaction() as connection:
        return [DueAccount._make(row) for row in connection.execute(_CLAIM, values)]
