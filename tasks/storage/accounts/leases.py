"""The lease on an account: one sync at a time, and none for ever.

A lease is held by one run of a task, not by a task id: a task delivered twice has the same id both times. The
holder's name is `task id:run`, so that a task can tell its own earlier runs. A lease is renewed in every batch's own
transaction, so a run whose lease was taken by another cannot commit anything more. A killed worker's lease runs out
by itself.

A run in the background (reading again) has an account only while nothing else wants it: it gets no lease while the
account's sync is due or waits in its queue, and is told of both whenever it renews.
"""

import uuid

from sqlalchemy import Connection, text

from tasks.errors import EmailError, HostBusyError, LeaseHeldError, LeaseLostError
from tasks.settings import get_settings
from tasks.storage.accounts.rows import Account, get_account, require_mailbox
from tasks.storage.session import tenant_transaction

# A place in the queue that is older than the account's interval was lost with the message.
_SYNC_WAITS = """
    (next_sync_at <= clock_timestamp()
     OR coalesce(sync_queued_at + make_interval(secs => sync_interval) > clock_timestamp(), false))
    """

# Locks the row, so that of two runs that come at once one sees the other's lease.
_HOLDER = text(
    f"""
    SELECT coalesce(extract(epoch FROM lease_until - clock_timestamp()), 0)::float, lease_owner,
           coalesce(extract(epoch FROM lease_wanted_until - clock_timestamp()), 0)::float, {_SYNC_WAITS}
    FROM email_client WHERE tenant_id = :tenant_id AND id = :id FOR UPDATE
    """
)
_HOST_HAS_ROOM = text("SELECT host_has_room(:hostname, :limit)")
# Its queue entry is spent with this: from here on the lease keeps the account from being queued again.
_TAKE = text(
    """
    UPDATE email_client
    SET lease_owner = :owner, lease_until = clock_timestamp() + make_interval(secs => :seconds),
        lease_wanted_until = NULL, sync_queued_at = NULL
    WHERE tenant_id = :tenant_id AND id = :id
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


# Whoever waits urgently looks again within seconds; if it does not come, others may go on.
_WANTED_SECONDS = 15

_BACKGROUND = "background/"


class OwnLeaseHeldError(LeaseHeldError):
    """An earlier run of this very task has not given the account back; it was killed, or it is still at work."""


class SyncComesFirstError(LeaseHeldError):
    """A sync of this account is due or waits in its queue, and comes before what is done in the background."""

    def __init__(self) -> None:
        EmailError.__init__(self)
        self.seconds_left = 0


def owner_of(task_id: str, *, in_background: bool = False) -> str:
    """A name for one run of a task."""
    return f"{_BACKGROUND if in_background else ''}{task_id}:{uuid.uuid4()}"


def take_lease(
    tenant_id: str, user_id: str, account_id: str, owner: str, seconds: int, *, is_urgent: bool = False
) -> Account:
    """Lease the caller's own account. One that `is_urgent` and finds it leased is the next to get it; any that finds
    a run in the background there gets it as soon as that has ended its batch.

    Raises NotFoundError, AccountSwitchedOffError and AccountPausedError; LeaseHeldError while another run holds it or
    is the next (OwnLeaseHeldError for a run of the same task, SyncComesFirstError for one in the background);
    HostBusyError while its server has as many connections
    as it may.
    """
    with tenant_transaction(tenant_id) as connection:
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
            connection.execute(_TAKE, {**key, "owner": owner, "seconds": seconds})
    if held:
        raise held
    return account


def renew_lease(connection: Connection, account: Account, owner: str, seconds: int) -> bool:
    """Hold the lease for `seconds` more, in the caller's transaction; whether somebody waits for it urgently, or for
    one in the background at all.

    Raises LeaseLostError if another took it.
    """
    values = {"seconds": seconds, "in_background": owner.startswith(_BACKGROUND)}
    is_wanted = connection.scalar(_RENEW, {**_key(account, owner), **values})
    if is_wanted is None:
        raise LeaseLostError(account.account_name)
    return bool(is_wanted)


def release_lease(account: Account, owner: str) -> None:
    """Give the lease back, if it is still held."""
    with tenant_transaction(account.tenant_id) as connection:
        connection.execute(_RELEASE, _key(account, owner))


def _key(account: Account, owner: str) -> dict[str, str]:
    return {"tenant_id": account.tenant_id, "id": account.id, "owner": owner}
