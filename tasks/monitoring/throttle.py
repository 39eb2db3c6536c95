"""Limits wrong logins, from each address and from all addresses together: some at once, then one in each interval.

Each limit is a leaky bucket, stored as the time at which the bucket will be empty (GCRA, as in ITU-T I.371). Only
wrong logins fill it. While a bucket is full no login is checked, not even a right one, as otherwise guessing would go
on unhindered. Waiting logins are checked as soon as the bucket has room for one more.
"""

import time
from collections.abc import Callable
from ipaddress import IPv4Address, ip_address, ip_network
from typing import NamedTuple


class Limit(NamedTuple):
    """How many wrong logins are allowed at once, and the interval in seconds after which one more is."""

    at_once: int
    interval: float

    def wait(self, empty_at: float, now: float) -> float:
        """Seconds until the bucket has room for one more; 0 or less: it has room now."""
        return empty_at - now - (self.at_once - 1) * self.interval


OF_ADDRESS = Limit(10, 1)
OF_ALL = Limit(50, 0.25)
# How many addresses with right logins are remembered: wrong logins from other addresses do not keep these out.
_MAX_KNOWN = 1000
# Limits count by IPv6 network of this size: one customer of a provider has at least so many addresses (RFC 6177).
_IPV6_PREFIX = 64


class Throttle:
    """Counts wrong logins. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._all = 0.0
        self._empty_at: dict[str, float] = {}
        self._known: dict[str, None] = {}

    def wait(self, address: str) -> float:
        """Seconds until a login from this address is checked; 0: now."""
        source, now = _source(address), self._clock()
        own = OF_ADDRESS.wait(self._empty_at.get(source, 0), now)
        others = 0.0 if source in self._known else OF_ALL.wait(self._all, now)
        return max(own, others, 0)

    def wrong(self, address: str) -> None:
        """Note a wrong login."""
        source, now = _source(address), self._clock()
        # Empty buckets are dropped, so there are never more buckets than the limit for all addresses can fill.
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
    """What a limit counts by: an IPv4 address, or the IPv6 network from which its owner can choose addresses."""
    try:
        found = ip_address(address)
    except ValueError:  # a Unix socket, or a name that a proxy gave
        return address
    if isinstance(found, IPv4Address):
        return address
    # A program that listens on :: sees the IPv4 address inside one of IPv6.
    return str(found.ipv4_mapped or ip_network((found, _IPV6_PREFIX), strict=False))
