"""The pace of logins: at one mail server one after another, with a minimum distance, however many accounts wait."""

import asyncio


class Pace:
    """Gives turns. Each host has so many turns in a second, one after another."""

    def __init__(self, per_second: float) -> None:
        self._distance = 1 / per_second
        self._next: dict[str, float] = {}

    async def turn(self, hostname: str) -> None:
        """Wait for the next turn at this host."""
        now = asyncio.get_running_loop().time()
        turn = max(self._next.get(hostname, now), now)
        self._next[hostname] = turn + self._distance
        if len(self._next) > 1000:
            self._next = {host: at for host, at in self._next.items() if at > now}
        await asyncio.sleep(turn - now)
