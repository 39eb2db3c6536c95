"""Redis's clock, which decides when a message expires or is due: clocks of hosts may be minutes off, and may be set.

Whoever publishes a message writes its times (`eta`, `expires`) by Redis's clock. The worker that takes the message
converts these times to its own clock, by comparing the two clocks at that moment (tasks/runtime/broker/transport.py).
From then on Celery waits by time.monotonic(), which cannot be set.
"""

import logging
import time
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime, timedelta
from typing import Any

logger = logging.getLogger(__name__)

# A smaller difference may be the time that the question and the answer were on their way.
_NO_SKEW_SECONDS = 1
_TIMES = ("expires", "eta")


def redis_now(client: Any) -> float:
    """Redis's time, in Unix seconds."""
    seconds, microseconds = client.time()
    return float(seconds) + float(microseconds) / 1e6


def ahead_of_redis(client: Any) -> float:
    """How many seconds this host's clock is ahead of Redis's; negative where it is behind."""
    before, redis = time.time(), redis_now(client)
    return (before + time.time()) / 2 - redis


def to_redis(client: Any, message: MutableMapping[str, Any]) -> None:
    """Convert the times in a message that is to be queued to Redis's clock. Costs a round trip if there are times."""
    if any(message["headers"].get(name) for name in _TIMES):
        shift(message["headers"], -ahead_of_redis(client))


def not_before(message: Mapping[str, Any]) -> float:
    """The moment for which the task of a message is to wait, in Unix seconds; 0 where it is to run at once."""
    eta = message["headers"].get("eta")
    return _read(eta).timestamp() if eta else 0.0


def shift(headers: MutableMapping[str, Any], seconds: float) -> None:
    """Move the times in the headers of a message by so many seconds."""
    if abs(seconds) < _NO_SKEW_SECONDS:
        return
    for name in _TIMES:
        if headers.get(name):
            headers[name] = (_read(headers[name]) + timedelta(seconds=seconds)).isoformat()


def _read(text: Any) -> datetime:
    # Imported here, as it loads much of Celery, for which verbs that ask for the time alone would wait.
    from celery.utils.time import maybe_iso8601, maybe_make_aware

    return maybe_make_aware(maybe_iso8601(text), UTC)  # type: ignore[no-any-return]
