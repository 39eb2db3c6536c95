"""Finds out whose clock is off (this host's, Redis's or PostgreSQL's), for workers, beat and `health` to report.

No task depends on this host's clock: messages go by Redis's clock
(tasks/runtime/broker/clock.py), and times stored in PostgreSQL by PostgreSQL's. But people
compare times that the three wrote, and on a host whose clock is far off no certificate is valid.
"""

import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, NamedTuple

from celery.utils.log import get_logger
from kombu.utils.url import parse_url
from redis.exceptions import ResponseError

from tasks.runtime.broker.clock import ahead_of_redis, redis_now
from tasks.secrecy.urls import postgresql_servers
from tasks.settings import get_settings

logger = get_logger(__name__)

# A difference of this many seconds or more is reported.
SKEW_SECONDS = 5
# The key with the seconds by which PostgreSQL's clock is ahead of Redis's, as a task last measured it.
_DATABASE = "metabuilder:clock:postgresql"
_KEPT_SECONDS = 120


class Watch:
    """Measures the clocks at every look, and logs changes that are large enough to matter."""

    def __init__(self) -> None:
        self.words = ""
        self._said: Mapping[str, float] = {}

    def look(self, client: Any) -> bool:
        """Measure through a client of the broker's Redis. Returns whether `words` have changed."""
        clocks = _named(ahead_of_redis(client), _noted(client))
        before, self.words = self.words, words(clocks)
        if self.words and any(abs(ahead - self._said.get(name, 0)) > SKEW_SECONDS for name, ahead in clocks.items()):
            self._said = clocks
            logger.warning("%s", self.words)
        elif before and not self.words:
            self._said = {}
            logger.warning("the clocks of this host, Redis and PostgreSQL agree again")
        return self.words != before


class Skew(NamedTuple):
    """Which clocks are off, by how much and against which, and what to do."""

    what: str
    advice: str


def skew(clocks: Mapping[str, float]) -> Skew | None:
    """Which of these clocks are off; None where they agree.

    `clocks` maps the owner of each clock to the seconds by which the clock is ahead. Of three clocks, the two that
    agree count as right, or else the one in the middle; of two clocks, the second counts as right.
    """
    right = sorted(clocks.values())[1] if len(clocks) > 2 else list(clocks.values())[-1]
    off = {name: ahead - right for name, ahead in clocks.items() if abs(ahead - right) > SKEW_SECONDS}
    if not off:
        return None
    others = " and ".join(f"of {name}" for name in clocks if name not in off)
    said = [f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'}" for ahead in off.values()]
    found = "; ".join(f"the clock of {name} is {how} that {others}" for name, how in zip(off, said, strict=True))
    return Skew(found, f"synchronise {'them' if len(off) > 1 else 'it'} (timedatectl status, systemd-timesyncd)")


def words(clocks: Mapping[str, float]) -> str:
    """What `skew` finds, in one line; empty where the clocks agree."""
    return ": ".join(skew(clocks) or ())


def measure(client: Any, database_now: Callable[[], datetime]) -> dict[str, float]:
    """How many seconds the clocks of this host, PostgreSQL and Redis, in this order, are ahead of Redis's.

    The result maps the owner of each clock to the seconds. Raises what `database_now` raises.
    """
    return _named(ahead_of_redis(client), _database_ahead(client, database_now))


def note_database(client: Any, database_now: Callable[[], datetime]) -> None:
    """Measure PostgreSQL's clock and store the result in Redis,
    for workers and beat without a connection to PostgreSQL."""
    client.set(_DATABASE, _database_ahead(client, database_now), ex=_KEPT_SECONDS)


def _database_ahead(client: Any, database_now: Callable[[], datetime]) -> float:
    before, database = redis_now(client), database_now().timestamp()
    return database - (before + redis_now(client)) / 2


def _noted(client: Any) -> float | None:
    with suppress(ResponseError, TypeError, ValueError):  # no stored result, or a value that is no number
        return float(client.get(_DATABASE))
    return None


def _named(here: float, database: float | None) -> dict[str, float]:
    redis_host = parse_url(get_settings().redis.broker_url)["hostname"]
    clocks = {f"this host ({socket.gethostname()})": here}
    if database is not None:
        servers = postgresql_servers(get_settings().database.url.get_secret_value())
        clocks[f"PostgreSQL ({' or '.join(server.host for server in servers)})"] = database
    return {**clocks, f"Redis ({redis_host})": 0.0}
