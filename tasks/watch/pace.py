"""The pace of logins: at one mail server one after another, with a minimum distance, however many accounts wait.

A server has a few logins at work at most. So one that does not answer, on which each login waits for its time limit,
does not take all threads from the accounts of other servers.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class _Host:
    """`free` are the logins that may be at work besides, `users` those that are, or wait."""

    def __init__(self, at_once: int) -> None:
        self.free, self.users, self.next = asyncio.Semaphore(at_once), 0, 0.0


class Pace:
    """Gives turns. Each host has so many turns in a second, one after another, and so many at once."""

    def __init__(self, per_second: float, at_once: int) -> None:
        self._distance, self._at_once = 1 / per_second, at_once
        self._hosts: dict[str, _Host] = {}

    @asynccontextmanager
    async def turn(self, hostname: str) -> AsyncIterator[None]:
        """A block for a login at this host, which begins at the host's next turn."""
        host = self._hosts.setdefault(hostname, _Host(self._at_once))
        host.users += 1
        try:
            async with host.free:
                now = asyncio.get_running_loop().time()
                turn = max(host.next, now)
                host.next = turn + self._distance
                await asyncio.sleep(turn - now)
                yield
        finally:
            host.users -= 1
            self._forget_idle()

    def _forget_idle(self) -> None:
        if len(self._hosts) > 1000:
            now = asyncio.get_running_loop().time()
            self._hosts = {name: host for name, host in self._hosts.items() if host.users or host.next > now}
