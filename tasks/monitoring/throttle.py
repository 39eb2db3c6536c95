"""How many wrong logins are borne: some at once, then one every so often, from each address and from all together.

Each limit is a bucket that leaks, kept as the moment at which it will be empty (GCRA, as in ITU-T I.371). Right
logins fill nothing. While a bucket is full no login is looked at, not even the right one: guessing would go on as
quickly. It is looked at as soon as there is room for one more, a second later.
"""

import time
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from typing import NamedTuple


class Limit(NamedTuple):
    """So many at once, and one more in each interval (seconds)."""

    at_once: int
    interval: float

    def wait(self, empty_at: float, now: float) -> float:
        """Seconds until one more has room; 0 or less: now."""
        return empty_at - now - (self.at_once - 1) * self.interval


OF_ADDRESS = Limit(10, 1)
OF_ALL = Limit(50, 0.25)
# Addresses from which somebody logged in, the last ones: what others do does not keep them out.
_MAX_KNOWN = 1000
# One customer of a provider has at least so much of IPv6 (RFC 6177).
_IPV6_PREFIX = 64


class Throttle:
    """Counts wrong logins. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._all = 0.0
        self._empty_at: dict[str, float] = {}
        self._known: dict[str, None] = {}

    def wait(self, address: str) -> float:
        """Seconds until a login from this address is looked at; 0: now."""
        source, now = _source(address), self._clock()
        own = OF_ADDRESS.wait(self._empty_at.get(source, 0), now)
        others = 0.0 if source in self._known else OF_ALL.wait(self._all, now)
        return max(own, others, 0)

    def wrong(self, address: str) -> None:
        """Note a wrong login."""
        source, now = _source(address), self._clock()
        # What is empty by now need not be kept; so there are never more than all together may fill in that time.
        self._empty_at = {key: moment for key, moment in self._empty_at.items() if moment > now}
        self._empty_at[source] = max(self._empty_at.get(source, 0), now) + OF_ADDRESS.interval
        self._all = max(self._all, now) + OF_ALL.interval

    def right(self, address: str) -> None:
        """Note a right login."""
        source = _source(address)
        self._known.pop(source, None)
        self._known[source] = None
        if len(self._known) > _MAX_KNOWN:
            del self._known[next(iter(self._known))]


def _source(address: str) -> str:
    """An address, or of IPv6 the network that its owner can choose addresses from."""
    try:
        found = ip_address(address)
    except ValueError:  # a socket of Unix, or what a proxy calls it
        return address
    return address if found.version == 4 else str(ip_network((found, _IPV6_PREFIX), strict=False))
