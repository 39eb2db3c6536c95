"""Which watcher watches which account, and the syncs that watchers have queued.

Watchers share the accounts of all tenants. A watcher is alive until the time in its row of `mail_watcher`, which it
renews every few seconds. When that time has passed, whoever looks next gives up the watcher's accounts, and the other
watchers claim them. Each watcher claims up to its share, and gives up a few accounts at a time if it has more than
that, so a new watcher gets its share without a storm of logins (docs/decisions/0041).
"""

import json
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, func, select, text, update

from tasks.storage.accounts.dispatch import DueAccount
from tasks.storage.models import EmailClient
from tasks.storage.session import tenant_transaction, unbound_transaction

_RENEW = text("SELECT renew_watcher(:watcher, :seconds)")
_CLAIM = text("SELECT claim_watches(:watcher, :max_accounts, :max_claims, CAST(:host_limits AS jsonb))")
_GIVE_UP = text("SELECT give_up_over_limits(:watcher, CAST(:host_limits AS jsonb))")
_LIST = text("SELECT tenant_id, user_id, id, hostname, login FROM list_watches(:watcher)")
# Whether they are the same as before: to read thousands of them every few seconds would be most of a watcher's work.
_SUM = text(
    """
    SELECT count(*) || '/' || coalesce(sum(hashtextextended(concat_ws('/', tenant_id, user_id, id, login), 0)), 0)
    FROM list_watches(:watcher)
    """
)
_LIST_WELL = text(
    """
    SELECT tenant_id, id FROM list_watches(:watcher)
    JOIN unnest(CAST(:tenant_ids AS text[]), CAST(:account_ids AS text[])) AS asked (tenant_id, id)
      USING (tenant_id, id)
    WHERE is_well
    """
)
_END = text("SELECT end_watcher(:watcher)")
_COUNT = text("SELECT watcher, accounts, connected FROM count_watches()")
_RELEASE_DEAD = text("SELECT release_dead_watchers()")
_CLAIM_SYNCS = text(
    """
    SELECT tenant_id, email_client_id, user_id, hostname, folder_id
    FROM claim_watched_syncs(:watcher, :tenant_ids, :account_ids, :paths, :queue_seconds)
    """
)
_INTERVAL: ColumnElement[int] = EmailClient.__table__.c["sync_interval"]


class Key(NamedTuple):
    """Names one account among those of all tenants."""

    tenant_id: str
    account_id: str


class Watch(NamedTuple):
    """An account that a watcher has. `login` changes when the account's server or login does."""

    tenant_id: str
    user_id: str
    account_id: str
    hostname: str
    login: str

    @property
    def key(self) -> Key:
        """The account's key."""
        return Key(self.tenant_id, self.account_id)


class ClaimedSync(NamedTuple):
    """A sync to queue. `folder_id` is None where the whole account is to be synced."""

    account: DueAccount
    folder_id: str | None


def renew_watcher(watcher: str, seconds: int) -> None:
    """Be alive for `seconds` from now. Gives up accounts of watchers that are dead, and own ones that are not to be
    watched any more. Raises StorageUnavailableError."""
    with unbound_transaction() as connection:
        connection.execute(_RENEW, {"watcher": watcher, "seconds": seconds})


def claim_watches(watcher: str, max_accounts: int, max_claims: int, host_limits: Mapping[str, int]) -> None:
    """Claim up to `max_claims` accounts that nobody watches, up to the watcher's share of all; or give up as many, if
    it has more than its share. Watchers together get half of the connections in `host_limits`: where they have more,
    because a limit was lowered, each gives up its own beyond it."""
    values = {"watcher": watcher, "host_limits": json.dumps(host_limits)}
    with unbound_transaction() as connection:
        connection.execute(_GIVE_UP, values)
    with unbound_transaction() as connection:
        connection.execute(_CLAIM, {**values, "max_accounts": max_accounts, "max_claims": max_claims})


def list_watches(watcher: str) -> list[Watch]:
    """The accounts that the watcher has now."""
    with unbound_transaction() as connection:
        return [Watch._make(row) for row in connection.execute(_LIST, {"watcher": watcher})]


def sum_of_watches(watcher: str) -> str:
    """A sum over the accounts that the watcher has now, which is another when they are others, or their logins."""
    with unbound_transaction() as connection:
        return str(connection.execute(_SUM, {"watcher": watcher}).scalar_one())


def well_watches(watcher: str, keys: Collection[Key]) -> set[Key]:
    """Those of the watcher's accounts among `keys` of which a sync went well since the watcher connected."""
    values = {
        "watcher": watcher,
        "tenant_ids": [key.tenant_id for key in keys],
        "account_ids": [key.account_id for key in keys],
    }
    with unbound_transaction() as connection:
        return {Key._make(row) for row in connection.execute(_LIST_WELL, values)} if keys else set()


def end_watcher(watcher: str) -> None:
    """Give up all accounts of the watcher, which stops."""
    with unbound_transaction() as connection:
        connection.execute(_END, {"watcher": watcher})


def was_watched(tenant_id: str, account_id: str, seconds: float) -> bool:
    """Whether a watcher has had a connection for the account for `seconds`."""
    with tenant_transaction(tenant_id) as connection:
        since = EmailClient.watched_since < func.clock_timestamp() - func.make_interval(0, 0, 0, 0, 0, 0, seconds)
        where = (EmailClient.tenant_id == tenant_id, EmailClient.id == account_id, since)
        return connection.execute(select(EmailClient.id).where(*where)).first() is not None


def living_watchers() -> dict[str, int]:
    """The names of the watchers that are alive, and for how many accounts each has a connection."""
    with unbound_transaction() as connection:
        return {watcher: connected for watcher, _, connected in connection.execute(_COUNT)}


def release_dead_watchers() -> None:
    """Give up the accounts of watchers that are dead, so that they are polled as often as before."""
    with unbound_transaction() as connection:
        connection.execute(_RELEASE_DEAD)


def claim_watched_syncs(watcher: str, changed: Mapping[Key, str | None], queue_seconds: int) -> list[ClaimedSync]:
    """Claim the syncs of those of the `changed` accounts that no sync waits for or works on. The values are the path
    of the one folder that changed, or None. A sync that was queued `queue_seconds` ago waits no more."""
    values = {
        "watcher": watcher,
        "tenant_ids": [key.tenant_id for key in changed],
        "account_ids": [key.account_id for key in changed],
        "paths": list(changed.values()),
        "queue_seconds": queue_seconds,
    }
    with unbound_transaction() as connection:
        rows = connection.execute(_CLAIM_SYNCS, values)
        return [ClaimedSync(DueAccount(*account), folder_id) for *account, folder_id in rows]


def note_watched(watcher: str, key: Key) -> None:
    """Note that a connection tells of the account's changes from now on: the account is polled rarely."""
    _change(watcher, key, watched_since=func.clock_timestamp(), watch_problem=None)


def note_lost(watcher: str, key: Key) -> None:
    """Note that the connection ended: the account is polled as often as before, until there is a new connection."""
    _change(watcher, key, watched_since=None, next_sync_at=func.least(EmailClient.next_sync_at, _in(_INTERVAL)))


def give_up(watcher: str, key: Key, problem: str, seconds: int) -> None:
    """Give up an account that cannot be watched; no watcher takes it for so many `seconds`."""
    _change(
        watcher,
        key,
        watched_by=None,
        watched_since=None,
        watch_problem=problem,
        watch_retry_at=_in(seconds),
        next_sync_at=func.least(EmailClient.next_sync_at, _in(_INTERVAL)),
    )


def _change(watcher: str, key: Key, **values: object) -> None:
    is_row = (EmailClient.tenant_id == key.tenant_id, EmailClient.id == key.account_id)
    with tenant_transaction(key.tenant_id, durable=False) as connection:
        statement = update(EmailClient).where(*is_row, EmailClient.watched_by == watcher)
        connection.execute(statement.values(**values))


def _in(seconds: ColumnElement[int] | int) -> ColumnElement[Any]:
    """The moment in so many seconds, by PostgreSQL's clock."""
    return func.now() + func.make_interval(0, 0, 0, 0, 0, 0, seconds)
