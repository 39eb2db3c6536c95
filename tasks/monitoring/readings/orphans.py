"""Keys of Redis that belong to nobody, as the hourly cleanup last counted them (tasks/runtime/broker/cleanup.py)."""

from collections.abc import Mapping
from typing import Any

from tasks.runtime.broker.cleanup import ORPHANS

_STORES = ("broker", "results")
_MAX_DIGITS = 18


def orphans(client: Any) -> Mapping[str, int]:
    """How many there are by store, `broker` and `results`; a store that was not looked at lately is left out.

    Read through a client of the broker's Redis. Raises redis.exceptions.RedisError.
    """
    if client.type(ORPHANS) != b"hash":
        return {}
    found = zip(_STORES, client.hmget(ORPHANS, _STORES), strict=True)
    return {store: int(count) for store, count in found if count and count.isdigit() and len(count) <= _MAX_DIGITS}
