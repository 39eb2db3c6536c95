"""Queues the syncs of watched accounts in which something changed.

An account never has more than one sync queued, and none is queued while one is at work: a change that comes meanwhile
waits here, and is queued when that sync has ended. A mailbox in which something happens all the time gets a sync
every few seconds, so a flood of changes costs no more than that.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

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
# So many syncs of an account may follow each other at once; further ones have this distance. A person who is sent
# twenty mails one after another waits for none of them.
_BURST, _DISTANCE_SECONDS = 30, 5.0
_MAX_AT_ONCE = 1000
# As for the syncs that periodic_sync queues: one that waited longer expires, because another may be queued by then.
_CLAIM_SHARE = 0.9


class _Recent(NamedTuple):
    """How many syncs of an account were queued lately, as it was at a moment of the monotonic clock."""

    at: float
    number: float

    def number_at(self, now: float) -> float:
        """As many less as distances have passed since."""
        return max(0.0, self.number - (now - self.at) / _DISTANCE_SECONDS)


_NONE = _Recent(0.0, 0.0)


class Syncs:
    """The changes of all accounts of a watcher, until their syncs are queued."""

    def __init__(self, watcher: str, threads: Threads) -> None:
        self._watcher, self._threads = watcher, threads
        self._watched: set[Key] = set()
        self._changed: dict[Key, set[str]] = {}
        self._recent: dict[Key, _Recent] = {}
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
        self._recent.pop(key, None)

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
            except Exception:
                logger.exception("queueing syncs failed, and is tried again")
                pause = _MAX_LOOK_SECONDS
                await asyncio.sleep(pause)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause if self._changed else None):
                    await self._is_changed.wait()

    async def _queue_due(self) -> bool:
        """Queue what can be queued now. Returns False if all accounts that are due have a sync already."""
        now = time.monotonic()
        due = [key for key in self._changed if self._recent.get(key, _NONE).number_at(now) < _BURST][:_MAX_AT_ONCE]
        if not due:
            return True
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
            self._recent[key] = _Recent(now, self._recent.get(key, _NONE).number_at(now) + 1)
        return bool(queued)


def _queue(watcher: str, changed: Mapping[Key, str | None]) -> set[Key]:
    """Queue the syncs of accounts that have none queued or at work. Returns for which there is one now."""
    claim_seconds = int(get_settings().sync.interval_seconds * _CLAIM_SHARE)
    claimed = claim_watched_syncs(watcher, changed, claim_seconds)
    calls = [
        (sync.account.email_client_id, sync.account.tenant_id, sync.account.user_id, sync.folder_id)
        for sync in claimed
    ]
    try:
        publish_many(sync_emails, calls, expires=claim_seconds)
    except Exception:
        unclaim_accounts([sync.account for sync in claimed])
        raise
    return {Key(sync.account.tenant_id, sync.account.email_client_id) for sync in claimed}
