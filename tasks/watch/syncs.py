"""Queues the syncs of watched accounts in which something changed.

An account never has more than one sync queued, and none is queued while one is at work: a change that comes meanwhile
waits here, and is queued when that sync has ended. So a mailbox in which much happens gets one sync after another,
with a distance that grows up to half a minute, and a flood of changes costs no more.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import suppress

from kombu.exceptions import OperationalError

from tasks.errors import StorageUnavailableError
from tasks.runtime.publish import publish_many
from tasks.settings import get_settings
from tasks.storage.accounts.dispatch import unclaim_accounts
from tasks.storage.accounts.watches import Key, claim_watched_syncs
from tasks.sync import sync_emails
from tasks.watch.threads import Threads

logger = logging.getLogger(__name__)

# How soon is looked again whether the sync at work has ended: at first, and at most; and after an error of the broker
# or PostgreSQL.
_LOOK_SECONDS, _MAX_LOOK_SECONDS = 0.25, 2.0
# The distance between two syncs of one account: the first, and the longest.
_DISTANCE_SECONDS, _MAX_DISTANCE_SECONDS = 0.5, 30.0
_QUIET_SECONDS = 60
_MAX_AT_ONCE = 1000
# As for the syncs that periodic_sync queues: one that waited longer expires, because another may be queued by then.
_CLAIM_SHARE = 0.9


class Syncs:
    """The changes of all accounts of a watcher, until their syncs are queued."""

    def __init__(self, watcher: str, threads: Threads) -> None:
        self._watcher, self._threads = watcher, threads
        self._watched: set[Key] = set()
        self._changed: dict[Key, set[str]] = {}
        self._distances: dict[Key, tuple[float, float]] = {}
        self._is_changed = asyncio.Event()
        self.queued = 0

    def begin(self, key: Key) -> None:
        """Take changes of this account from now on."""
        self._watched.add(key)

    def note(self, key: Key, path: str) -> None:
        """Note that a folder of the account changed."""
        if key in self._watched:
            self._changed.setdefault(key, set()).add(path)
            self._is_changed.set()

    def forget(self, key: Key) -> None:
        """Take no more changes of the account, and forget those that wait: it is polled again."""
        self._watched.discard(key)
        self._changed.pop(key, None)
        self._distances.pop(key, None)

    async def run(self) -> None:
        """Queue syncs until cancelled."""
        pause = _LOOK_SECONDS
        while True:
            self._is_changed.clear()
            try:
                pause = _LOOK_SECONDS if await self._queue_due() else min(pause * 1.5, _MAX_LOOK_SECONDS)
            except (StorageUnavailableError, OperationalError) as error:
                logger.warning("syncs cannot be queued, which is tried again: %s", error)
                pause = _MAX_LOOK_SECONDS
                await asyncio.sleep(pause)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause if self._changed else None):
                    await self._is_changed.wait()

    async def _queue_due(self) -> bool:
        """Queue what can be queued now. Returns whether that was anything."""
        now = time.monotonic()
        due = [key for key in self._changed if self._distances.get(key, (0, 0))[0] <= now][:_MAX_AT_ONCE]
        if not due:
            return False
        taken = {key: self._changed.pop(key) for key in due}
        queued: set[Key] = set()
        try:
            single = {key: next(iter(paths)) if len(paths) == 1 else None for key, paths in taken.items()}
            queued = await self._threads.run(_queue, self._watcher, single)
        finally:
            for key, paths in taken.items():
                if key not in queued and key in self._watched:
                    self._changed.setdefault(key, set()).update(paths)
        self.queued += len(queued)
        for key in queued:
            self._distances[key] = self._next_distance(key, now)
        return bool(queued)

    def _next_distance(self, key: Key, now: float) -> tuple[float, float]:
        """Before when no sync of the account is queued, and how long that is from now."""
        earliest, distance = self._distances.get(key, (now, 0.0))
        is_quiet = now - earliest > _QUIET_SECONDS
        distance = _DISTANCE_SECONDS if is_quiet or not distance else min(distance * 1.5, _MAX_DISTANCE_SECONDS)
        return now + distance, distance


def _queue(watcher: str, changed: Mapping[Key, str | None]) -> set[Key]:
    """Queue the syncs of accounts that have none queued or at work. Returns for which there is one now."""
    claimed = claim_watched_syncs(watcher, changed)
    calls = [
        (sync.account.email_client_id, sync.account.tenant_id, sync.account.user_id, sync.folder_id)
        for sync in claimed
    ]
    try:
        publish_many(sync_emails, calls, expires=int(get_settings().sync.interval_seconds * _CLAIM_SHARE))
    except OperationalError:
        unclaim_accounts([sync.account for sync in claimed])
        raise
    return {Key(sync.account.tenant_id, sync.account.email_client_id) for sync in claimed}
