"""The lease on an account: one sync at a time, and none for ever.

A lease is held by one run of a task, not by a task id: a task delivered twice has the same
id both times. The holder's name is `task id:run`, so that a task can recognise its own
earlier runs. Each batch renews the lease in its transaction, so a run whose lease another
run took cannot commit anything more. The lease of a killed worker expires by itself.

A run in the background (rereading) has an account only while no other run wants the account: it gets no lease while
the account's sync is due or waits in its queue, and learns of either when it renews its lease.
"""

import uuid

from sqlalchemy import Connection, text

from tasks.errors import EmailError, HostBusyError, LeaseHeldError, LeaseLostError, StorageUnavailableError
from tasks.settings import get_settings
from tasks.storage.accounts.rows import Account, get_account, require_mailbox
from tasks.storage.session import tenant_transaction

# A sync that was queued longer ago than the account's interval does not count: its task message was lost.
_SYNC_WAITS = """
    (next_sync_at <= clock_timestamp()
     OR coalesce(sync_queued_at + make_interval(secs => sync_interval) > clock_timestamp(), false))
    """

# Locks the row, so that if two runs come at once, the second sees the first one's lease.
_HOLDER = text(
    f"""
    SELECT coalesce(extract(epoch FROM lease_until - clock_timestamp()), 0)::float, lease_owner,
           coalesce(extract(epoch FROM lease_wanted_until - clock_timestamp()), 0)::float, {_SYNC_WAITS}
    FROM email_client WHERE tenant_id = :tenant_id AND id = :id FOR UPDATE
    """
)
_HOST_HAS_ROOM = text("SELECT host_has_room(:hostname, :limit)")
# Clears `sync_queued_at` too: the lease now keeps the account from being queued again. The run before may have ended
# the first sync after the account was read.
_TAKE = text(
    """
    UPDATE email_client
    SET lease_owner = :owner, lease_until = clock_timestamp() + make_interval(secs => :seconds),
        lease_wanted_until = NULL, sync_queued_at = NULL
    WHERE tenant_id = :tenant_id AND id = :id
    RETURNING last_sync_at
    """
)
_RENEW = text(
    f"""
    UPDATE email_client SET lease_until = clock_timestamp() + make_interval(secs => :seconds)
    WHERE tenant_id = :tenant_id AND id = :id AND lease_owner = :owner
    RETURNING coalesce(lease_wanted_until > clock_timestamp(), false) OR (:in_background AND {_SYNC_WAITS})
    """
)
_WANT = text(
    """
    UPDATE email_client SET lease_wanted_until = clock_timestamp() + make_interval(secs => :seconds)
    WHERE tenant_id = :tenant_id AND id = :id
    """
)
_QUEUE = text("UPDATE email_client SET sync_queued_at = clock_timestamp() WHERE tenant_id = :tenant_id AND id = :id")
_RELEASE = text(
    """
    UPDATE email_client SET lease_owner = NULL, lease_until = NULL
    WHERE tenant_id = :tenant_id AND id = :id AND lease_owner = :owner
    """
)


# How long the lease is kept for an urgent run, which looks again within seconds. After that, others may take it.
_WANTED_SECONDS = 15

_BACKGROUND = "background/"


class OwnLeaseHeldError(LeaseHeldError):
    """An earlier run of this very task has not given the account back; it was killed, or it is still at work."""


class SyncComesFirstError(LeaseHeldError):
    """A sync of this account is due or waits in its queue, and comes before what is done in the background."""

    def __init__(self) -> None:
        EmailError.__init__(self)
        self.seconds_left = 0


class LeaseInDoubtError(StorageUnavailableError):
    """PostgreSQL was lost while it committed that this run has the lease: the run may have it."""


def owner_of(task_id: str, *, in_background: bool = False) -> str:
    """The unique name of one run of a task."""
    return f"{_BACKGROUND if in_background else ''}{task_id}:{uuid.uuid4()}"


def take_lease(
    tenant_id: str, user_id: str, account_id: str, owner: str, seconds: int, *, is_urgent: bool = False
) -> Account:
    """Take the lease on the caller's account.

    If another run has the lease, a run that `is_urgent` gets it next. If a run in the background has the lease, any
    other run gets it as soon as the batch at work is stored.

    Raises NotFoundError, AccountSwitchedOffError, AccountPausedError and LoginDelayedError; LeaseHeldError while
    another run has the lease or is the next to get it (OwnLeaseHeldError: a run of the same task has it;
    SyncComesFirstError: this run is in the background and a sync comes first); HostBusyError while the mail server
    has all the connections it may have; StorageUnavailableError (LeaseInDoubtError: the lease may be taken).
    """
    is_written = False
    try:
        with tenant_transaction(tenant_id) as connection:
            account, held = _take(connection, tenant_id, user_id, account_id, owner, seconds, is_urgent=is_urgent)
            is_written = held is None
    except StorageUnavailableError as error:
        if is_written:
            raise LeaseInDoubtError(error.detail) from error
        raise
    if held:
        raise held
    return account


def _take(
    connection: Connection,
    tenant_id: str,
    user_id: str,
    account_id: str,
    owner: str,
    seconds: int,
    *,
    is_urgent: bool,
) -> tuple[Account, LeaseHeldError | None]:
    """The account, and why this run does not have the lease. What was written for that is to be committed, too."""
    account = get_account(connection, tenant_id, user_id, account_id)
    require_mailbox(account)
    key = {"tenant_id": tenant_id, "id": account_id}
    seconds_left, holder, wanted_seconds, sync_waits = connection.execute(_HOLDER, key).one()
    held: LeaseHeldError | None = None
    if seconds_left > 0:
        is_own = str(holder).rpartition(":")[0] == owner.rpartition(":")[0]
        held = OwnLeaseHeldError(seconds_left) if is_own else LeaseHeldError(seconds_left)
        if is_urgent:
            connection.execute(_WANT, {**key, "seconds": _WANTED_SECONDS})
        elif str(holder).startswith(_BACKGROUND) and not owner.startswith(_BACKGROUND):
            connection.execute(_QUEUE, key)
    elif wanted_seconds > 0 and not is_urgent:
        held = LeaseHeldError(wanted_seconds)
    elif sync_waits and owner.startswith(_BACKGROUND):
        held = SyncComesFirstError()
    else:
        limit = get_settings().mail.connections_to(account.hostname)
        if limit and not connection.scalar(_HOST_HAS_ROOM, {"hostname": account.hostname, "limit": limit}):
            raise HostBusyError(account.hostname)
        last_sync_at = connection.scalar(_TAKE, {**key, "owner": owner, "seconds": seconds})
        account = account._replace(last_sync_at=last_sync_at)
    return account, held


def renew_lease(connection: Connection, account: Account, owner: str, seconds: int) -> bool:
    """Renew the lease for `seconds` in the caller's transaction. Returns whether an urgent run waits for the lease;
    for a run in the background, whether any run does.

    Raises LeaseLostError if another run took the lease.
    """
    values = {"seconds": seconds, "in_background": owner.startswith(_BACKGROUND)}
    key = {"tenant_id": account.tenant_id, "id": account.id, "owner": owner}
    is_wanted = connection.scalar(_RENEW, {**key, **values})
    if is_wanted is None:
        raise LeaseLostError(account.account_name)
    return bool(is_wanted)


def release_lease(tenant_id: str, account_id: str, owner: str) -> None:
    """Give the lease back, if this run still has it."""
    with tenant_transaction(tenant_id) as connection:
        connection.execute(_RELEASE, {"tenant_id": tenant_id, "id": account_id, "owner": owner})
