"""Claims accounts whose sync is due, of all tenants.

A claimed account is not due and not claimed again before its sync ran or its task message expired, so if
`periodic_sync` is killed after a claim, the account waits for one interval at most. Rows that another run has locked
are skipped, so two runs at once share the work.
"""

from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, NamedTuple

from sqlalchemy import text

from tasks.storage.session import unbound_transaction

# How many accounts of each tenant the first round claims, and by how much each further round claims more. So the few
# accounts of a small tenant do not wait behind the many of a large tenant, whose accounts still need few rounds.
_FIRST_SHARE, _GROWTH = 8, 4

_CLAIM = text(
    """
    SELECT tenant_id, email_client_id, user_id, hostname
    FROM claim_due_accounts(:after_tenant, :is_inclusive, :max_accounts, :max_per_tenant, :queue_seconds)
    """
)
_UNCLAIM = text("SELECT unclaim_accounts(:tenant_ids, :account_ids, :wait_seconds)")


class DueAccount(NamedTuple):
    """A due account, claimed by this run of `periodic_sync`."""

    tenant_id: str
    email_client_id: str
    user_id: str
    hostname: str


def claim_due_accounts(batch: int, queue_seconds: int) -> Generator[list[DueAccount], None, None]:
    """Claim all due accounts in batches, fairly between tenants.

    Accounts of a tenant that have been due longest come first.

    Each batch is claimed in a transaction of its own, while the caller works on the batch before. If the generator is
    closed early, it gives up the claims of the batch that was not taken. Raises StorageUnavailableError.
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
    """Claim up to `share` accounts of each tenant in turn, a batch at a time. Returns whether there were any."""
    claim: dict[str, Any] = {"max_accounts": batch, "max_per_tenant": share, "queue_seconds": queue_seconds}
    claim |= {"after_tenant": "", "is_inclusive": share >= batch}
    while due := _claim(claim):
        yield due
        claim["after_tenant"] = max(account.tenant_id for account in due)
    return bool(claim["after_tenant"])


def unclaim_accounts(accounts: Sequence[DueAccount], wait_seconds: int = 0) -> None:
    """Give up the claims on accounts whose sync could not be queued: they are due again in `wait_seconds`."""
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
