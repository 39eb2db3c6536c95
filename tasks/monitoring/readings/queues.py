"""The queues, read from the broker's Redis: how many messages wait, and for how long the oldest has been due."""

from dataclasses import dataclass
from typing import Any

from tasks.registry import QUEUES
from tasks.runtime.broker.queues import lists

# How many of the messages that are taken next are looked at, in each list, and how many bytes of them: a script in
# Redis copies each message that it looks at.
_MAX_LOOKED_AT, _MAX_BYTES = 50, 1024 * 1024

_IN_HAND = "unacked"  # kombu's table of delivered messages

# KEYS: lists. ARGV: how many messages to look at, how many bytes. The messages that are taken next are looked at, the
# oldest of which need not come first: a message that was given back counts from then on. Returns for each list its
# length, and for how long the oldest of these messages has been due; empty where none is, or none says so.
_LOOK = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local found = {}
for i, key in ipairs(KEYS) do
  local length = tonumber(redis.pcall('LLEN', key)) or 0
  local oldest, bytes = '', 0
  for place = 1, math.min(length, tonumber(ARGV[1])) do
    local message = redis.call('LINDEX', key, -place)
    local due = tonumber(string.match(string.sub(message, 1, 64), '^{"due": (%d+%.%d+), '))
    local age = due and now - due
    if age and age >= 0 and age > (tonumber(oldest) or -1) then oldest = string.format('%.3f', age) end
    bytes = bytes + #message
    if bytes > tonumber(ARGV[2]) then break end
  end
  found[i] = {length, oldest}
end
return found
"""


@dataclass(frozen=True)
class QueueReading:
    """A queue: how many messages lie on it, of all priorities, and how long the oldest that is due has been due.

    `oldest_seconds` is None where none is due (all wait for their time), or none says since when, as messages of
    older releases. Only the next 50 messages of each priority are looked at.
    """

    name: str
    depth: int
    oldest_seconds: float | None


def queues(client: Any) -> tuple[QueueReading, ...]:
    """The queues in the order of the registry, read through a client of the broker's Redis.

    Raises redis.exceptions.RedisError.
    """
    of_queue = {queue: lists(queue) for queue in QUEUES}
    keys = [key for found in of_queue.values() for key in found]
    answers = dict(zip(keys, client.eval(_LOOK, len(keys), *keys, _MAX_LOOKED_AT, _MAX_BYTES), strict=True))
    return tuple(_reading(queue, [answers[key] for key in keys]) for queue, keys in of_queue.items())


def in_hand(client: Any) -> int:
    """How many messages workers have taken and not finished, those included whose worker died.

    Raises redis.exceptions.RedisError.
    """
    return int(client.hlen(_IN_HAND)) if client.type(_IN_HAND) == b"hash" else 0


def _reading(queue: str, found: list[tuple[int, bytes]]) -> QueueReading:
    ages = [float(oldest) for _, oldest in found if oldest]
    return QueueReading(queue, sum(length for length, _ in found), max(ages, default=None))
