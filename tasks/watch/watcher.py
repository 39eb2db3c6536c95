"""Which accounts this process watches.

Every few seconds: renew the lease of this watcher, claim accounts up to its share or give some up, and read which
accounts it has. What it has and does not watch yet is begun, what it does not have any more is ended: accounts that
were paused, switched off or removed, and those that another watcher is to have.

While PostgreSQL is away, the connections stay. Nothing can be queued then, nor claimed by another watcher, so no
account is watched by two that act; and when PostgreSQL is back, no logins are needed.
"""

import asyncio
import logging
import os
import socket
import time
import uuid
from typing import NamedTuple

from tasks.celery_app import celery_app
from tasks.errors import EmailError, StorageUnavailableError
from tasks.monitoring.totals import Totals
from tasks.runtime.broker.transport import broker_client
from tasks.runtime.systemd import notify, notify_alive
from tasks.settings import get_settings
from tasks.storage.accounts.watches import (
    Key,
    Watch,
    claim_watches,
    end_watcher,
    list_watches,
    renew_watcher,
    sum_of_watches,
    well_watches,
)
from tasks.watch.mailbox import Means, WatchedAccount
from tasks.watch.pace import Pace
from tasks.watch.syncs import Syncs
from tasks.watch.threads import Threads

logger = logging.getLogger(__name__)

# A watcher that has been silent for this long is dead, and the others take its accounts in their next round.
LEASE_SECONDS = 15
ROUND_SECONDS = 3
# How many accounts are claimed or given up in a round, and how many may wait for their logins at most.
_CLAIMS_PER_ROUND = 200
_MAX_WAITING = 500
_LOGIN_THREADS = 8
# How many logins may be at work at one mail server.
_LOGINS_A_HOST = 3
# Two for what keeps the lease and queues syncs; what is noted for thousands of accounts at once waits in a queue of
# its own, so that the lease does not end meanwhile.
_STATEMENT_THREADS, _NOTE_THREADS = 2, 1
# Each thread may have a transaction at work.
CONNECTIONS = _STATEMENT_THREADS + _NOTE_THREADS + _LOGIN_THREADS
# How often the counts for the metrics are told.
_COUNTS_SECONDS = 5


class Watcher:
    """The watcher of this process. `name` is unique to it."""

    def __init__(self) -> None:
        self.name = f"{socket.gethostname()[:100]}:{os.getpid()}:{uuid.uuid4()}"
        self._threads = Threads(_STATEMENT_THREADS)
        self._syncs = Syncs(self.name, self._threads)
        pace = Pace(get_settings().watch.host_logins_per_second, _LOGINS_A_HOST)
        self._totals, self._counting = Totals(), Threads(1)
        notes, logins = Threads(_NOTE_THREADS), Threads(_LOGIN_THREADS)
        self._means = Means(self.name, notes, logins, pace, self._syncs, self._totals)
        self._wanted: dict[Key, Watch] = {}
        self._sum = ""
        self._accounts: dict[Key, WatchedAccount] = {}
        self._running: dict[Key, asyncio.Task[None]] = {}
        # Whether watching an account ended since the accounts were last compared with the wanted ones.
        self._has_ended = False

    async def run(self, stopped: asyncio.Event) -> None:
        """Watch until told to stop, then give up all accounts."""
        queueing, alive = asyncio.create_task(self._syncs.run()), asyncio.create_task(_say_alive())
        counting = asyncio.create_task(self._tell_counts())
        is_ready = False
        try:
            while not stopped.is_set():
                began = time.monotonic()
                is_ready = await self._round(is_ready)
                if queueing.done():
                    queueing.result()  # raises: without it, nothing is queued
                try:
                    async with asyncio.timeout(max(0.0, began + ROUND_SECONDS - time.monotonic())):
                        await stopped.wait()
                except TimeoutError:
                    pass
        finally:
            notify("STOPPING=1")
            await self._end([queueing, counting, *self._running.values()])
            await self._give_up_all()
            alive.cancel()

    async def _tell_counts(self) -> None:
        """Add what is counted to the counts of the site, which the exporter tells. While Redis is away they wait."""
        while True:
            await asyncio.sleep(_COUNTS_SECONDS)
            try:
                await self._counting.run(_tell, self._totals)
            except Exception as error:  # of any kind: it is only for the metrics
                logger.info("what was counted for the metrics cannot be told, and waits: %s", error)

    async def _round(self, is_ready: bool) -> bool:
        """One look at PostgreSQL. Returns whether the watcher works, or did."""
        failing = [key for key, account in self._accounts.items() if account.is_failing]
        try:
            found = await self._threads.run(_renewed, self.name, self._room(), self._sum, failing)
        except StorageUnavailableError as error:
            logger.warning("PostgreSQL cannot be reached; the connections stay as they are: %s", error)
            return is_ready
        if found.watches is not None:
            self._wanted, self._sum = {watch.key: watch for watch in found.watches}, found.sum
        if found.watches is not None or self._has_ended:
            await self._follow(found.kept)
        for key in found.well:
            if account := self._accounts.get(key):
                account.note_well()
        connected = sum(account.is_connected for account in self._accounts.values())
        notify(*(() if is_ready else ("READY=1",)), f"STATUS=Watches {connected} of {len(self._wanted)} mailboxes")
        return True

    def _room(self) -> int:
        """How many accounts may be claimed now: not more than can log in before long."""
        waiting = sum(not (account.is_connected or account.was_tried) for account in self._accounts.values())
        return max(0, min(_CLAIMS_PER_ROUND, _MAX_WAITING - waiting))

    async def _follow(self, kept: set[Key] | None) -> None:
        """Watch the wanted accounts and no others. Those that are not among the `kept` ones are begun anew."""
        wanted, self._has_ended = self._wanted, False
        changed = [
            key
            for key, account in self._accounts.items()
            if key not in wanted
            or (kept is not None and key not in kept)
            or wanted[key].login != account.watch.login
            or self._running[key].done()
        ]
        ended = [self._running.pop(key) for key in changed]
        for key in changed:
            del self._accounts[key]
        await self._end(ended)
        for key, watch in wanted.items():
            if key not in self._accounts:
                self._begin(watch)

    def _begin(self, watch: Watch) -> None:
        account = self._accounts[watch.key] = WatchedAccount(watch, self._means)
        running = self._running[watch.key] = asyncio.create_task(account.run())
        running.add_done_callback(self._note_end)

    def _note_end(self, _: "asyncio.Task[None]") -> None:
        self._has_ended = True

    @staticmethod
    async def _end(running: list[asyncio.Task[None]]) -> None:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _give_up_all(self) -> None:
        try:
            await self._threads.run(end_watcher, self.name)
        except EmailError as error:
            logger.warning("the accounts are given up when the lease ends: %s", error)
        for threads in (self._threads, self._counting, self._means.notes, self._means.logins):
            threads.close()


def _tell(totals: Totals) -> None:
    with broker_client(celery_app) as client:
        totals.tell(client)


async def _say_alive() -> None:
    """Tell systemd that the event loop runs. It runs, too, while PostgreSQL keeps a round waiting."""
    while True:
        notify_alive()
        await asyncio.sleep(ROUND_SECONDS)


class _Found(NamedTuple):
    """The accounts that the watcher has, None if they are those of the round before; those of the round before that
    it has had ever since, None if all; and which of the failing ones are well."""

    sum: str
    watches: list[Watch] | None
    kept: set[Key] | None
    well: set[Key]


def _renewed(name: str, claims: int, known_sum: str, failing: list[Key]) -> _Found:
    """Renew the lease, claim accounts or give some up, and read which accounts the watcher has.

    They are read before the claim, too: an account that was lost, and is claimed again at once, is not noted as
    watched.
    """
    settings = get_settings()
    renew_watcher(name, LEASE_SECONDS)
    kept = None if sum_of_watches(name) == known_sum else {watch.key for watch in list_watches(name)}
    claim_watches(name, settings.watch.max_accounts, claims, settings.mail.connections_by_host)
    new_sum = sum_of_watches(name)
    is_known = new_sum == known_sum and kept is None
    return _Found(new_sum, None if is_known else list_watches(name), kept, well_watches(name, failing))
