"""The messages that wait in a queue and those that workers have in hand: to look at them, and to empty a queue.

Whoever can write to Redis can put anything there. So a message that is too large is only measured, and what cannot be
read counts as a message of which nothing is known.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

from tasks.runtime.broker.aside import part, word
from tasks.runtime.broker.queues import lists, wake_key

# Bytes of a message that is read for people, and of all that are read at once.
_MAX_BYTES, _MAX_BYTES_AT_ONCE = 1024 * 1024, 16 * 1024 * 1024

# KEYS: the lists of a queue in the order in which workers take from them. ARGV: how many messages, the most bytes of
# a message, the most bytes altogether. Returns each message as its size and, where that is not too much, its JSON.
_LOOK = """
local found, bytes = {}, 0
for _, key in ipairs(KEYS) do
  local length = redis.pcall('LLEN', key)
  for i = 1, math.min(tonumber(length) or 0, ARGV[1] - #found) do
    local message = redis.call('LINDEX', key, -i)
    local size = #message
    bytes = bytes + size
    if size > tonumber(ARGV[2]) or bytes > tonumber(ARGV[3]) then message = '' end
    found[#found + 1] = {size, message}
  end
end
return found
"""

# KEYS: the lists of a queue, then the tokens that wake its workers. Returns how many messages there were. A key of
# another type counts as empty and is deleted too.
_PURGE = """
local messages = 0
for i, key in ipairs(KEYS) do
  if i < #KEYS then messages = messages + (tonumber(redis.pcall('LLEN', key)) or 0) end
  redis.call('UNLINK', key)
end
return messages
"""

# kombu's table of delivered messages and its index.
TAKEN = ("unacked", "unacked_index")
# KEYS: these two. ARGV: how many messages, the most bytes of each, the most bytes altogether. Returns the time, then
# of each message when it was taken, its size, and its entry where that is not too much.
_LOOK_AT_TAKEN = """
local time = redis.call('TIME')
local found, bytes = {time[1] .. string.format('.%06d', time[2])}, 0
for i, type in ipairs({'hash', 'zset'}) do
  if redis.call('TYPE', KEYS[i]).ok ~= type then return found end
end
local tags = redis.call('ZRANGE', KEYS[2], 0, ARGV[1] - 1, 'WITHSCORES')
for i = 1, #tags, 2 do
  local size, entry = redis.call('HSTRLEN', KEYS[1], tags[i]), false
  bytes = bytes + size
  if size <= tonumber(ARGV[2]) and bytes <= tonumber(ARGV[3]) then entry = redis.call('HGET', KEYS[1], tags[i]) end
  if size > 0 then found[#found + 1] = {tags[i + 1], size, entry or ''} end
end
return found
"""


class Waiting(NamedTuple):
    """A message as it lies in Redis. `message` is None where it cannot be read or is too large."""

    size: int  # bytes
    message: dict[str, Any] | None

    def header(self, name: str) -> str | None:
        """A header as it may be shown; None where there is none, or one that is no plain word."""
        return word(part(self.message, "headers").get(name))


def look(client: Any, queue: str, limit: int) -> Iterator[Waiting]:
    """The messages that workers take next from a queue, the first one first."""
    keys = lists(queue)
    for size, found in client.eval(_LOOK, len(keys), *keys, limit, _MAX_BYTES, _MAX_BYTES_AT_ONCE):
        yield Waiting(size, read(found))


def count(client: Any, queue: str) -> int:
    """How many messages wait in a queue."""
    with client.pipeline(transaction=False) as pipe:
        for key in lists(queue):
            pipe.llen(key)
        return sum(size for size in pipe.execute(raise_on_error=False) if isinstance(size, int))


def purge(client: Any, queue: str) -> int:
    """Delete all messages of a queue at once, except those that workers have in hand. Returns how many."""
    keys = (*lists(queue), wake_key(queue))
    return int(client.eval(_PURGE, len(keys), *keys))


def read(found: bytes | str) -> dict[str, Any] | None:
    """A message of which nothing is known but that it is a mapping in JSON; None for any other bytes."""
    try:
        message = json.loads(found)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


class InHand(NamedTuple):
    """A message that a worker has taken and whose task is not done, or whose worker died; `seconds` ago."""

    queue: str | None
    seconds: float
    taken: Waiting
    is_scheduled: bool  # its time has not come


def in_hand(client: Any, limit: int) -> Iterator[InHand]:
    """The messages that workers have in hand, those that were taken first at the beginning."""
    arguments = limit, _MAX_BYTES, _MAX_BYTES_AT_ONCE
    now, *found = client.eval(_LOOK_AT_TAKEN, 2, *TAKEN, *arguments)
    for taken_at, size, entry in found:
        message, queue = _split(entry)
        taken = Waiting(size, message)
        yield InHand(queue, max(float(now) - float(taken_at), 0), taken, _is_later(taken.header("eta"), float(now)))


def _split(entry: bytes | str) -> tuple[dict[str, Any] | None, str | None]:
    try:
        message, _, queue = json.loads(entry)
    except (ValueError, TypeError, RecursionError):
        return None, None
    return message if isinstance(message, dict) else None, word(queue)


def _is_later(eta: str | None, now: float) -> bool:
    try:
        moment = datetime.fromisoformat(eta or "")
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() > now
    except (ValueError, OverflowError):
        return False
