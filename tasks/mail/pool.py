"""A pool of connections that are kept open between two uses,
by account: few, not for long, and never across a fork."""

import os
import threading
import time
from collections.abc import Hashable
from typing import Generic, NamedTuple, Protocol, TypeVar


class Closable(Protocol):
    """What a pool needs of a connection."""

    @property
    def is_stale(self) -> bool: ...
    def close(self) -> None: ...
    def abandon(self) -> None: ...


C = TypeVar("C", bound=Closable)


class _Idle(NamedTuple, Generic[C]):
    key: Hashable
    connection: C
    since: float


class Pool(Generic[C]):
    """A connection that was taken belongs to the caller alone until it is given back. Safe for threads."""

    def __init__(self, most: int, idle_seconds: float) -> None:
        self._most, self._idle_seconds = most, idle_seconds
        self._idle: list[_Idle[C]] = []
        self._lock = threading.Lock()
        self._reaper: threading.Timer | None = None
        os.register_at_fork(after_in_child=self._forget)

    def take(self, key: Hashable) -> C | None:
        """Take the connection for this key that was used last, if one is open."""
        while True:
            with self._lock:
                found = next((idle for idle in reversed(self._idle) if idle.key == key), None)
                if found is None:
                    return None
                self._idle.remove(found)
            if not found.connection.is_stale:
                return found.connection
            found.connection.abandon()

    def give(self, key: Hashable, connection: C) -> None:
        """Keep a connection for the next use. If there are too many, the one that has been idle longest is closed."""
        with self._lock:
            self._idle.append(_Idle(key, connection, time.monotonic()))
            surplus = self._idle[: -self._most]
            del self._idle[: -self._most]
            if self._reaper is None:
                self._start_reaper(self._idle_seconds)
        for idle in surplus:
            idle.connection.close()

    def close(self) -> None:
        """Close all connections of the pool."""
        with self._lock:
            idle, self._idle = self._idle, []
        for one in idle:
            one.connection.close()

    def _forget(self) -> None:
        # A forked child forgets the parent's connections: it must neither use them nor log out on them.
        self._lock, self._idle, self._reaper = threading.Lock(), [], None

    def _start_reaper(self, seconds: float) -> None:
        self._reaper = threading.Timer(seconds, self._reap)
        self._reaper.daemon = True
        self._reaper.start()

    def _reap(self) -> None:
        with self._lock:
            limit = time.monotonic() - self._idle_seconds
            expired = [idle for idle in self._idle if idle.since <= limit]
            self._idle = [idle for idle in self._idle if idle.since > limit]
            self._reaper = None
            if self._idle:
                self._start_reaper(self._idle[0].since - limit)
        for idle in expired:
            idle.connection.close()
