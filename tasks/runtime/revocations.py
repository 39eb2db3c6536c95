"""Tasks that an operator has revoked, by id or by name, kept in the broker's Redis: a worker that starts later knows
them too.

    metabuilder:revoked    a sorted set: `id:` and an id, or `name:` and the name of a task, and until when (Unix
                           seconds by Redis's clock; infinity for what holds until it is lifted)

Each worker looks at the set before it takes messages and then every second. What it finds it adds to Celery's list of
revoked ids, where an entry for a name means every task of that name (tasks/runtime/request.py). A revocation ends at
its time, or when a person lifts it. `health` shows those of names, so that none is forgotten.
"""

from collections.abc import Iterable
from math import isfinite
from typing import Any, NamedTuple

from redis.exceptions import ResponseError

from tasks.runtime.broker.scripts import rename_unless

_KEY = "metabuilder:revoked"
_ID, _NAME = "id:", "name:"
# All workers read all revocations every second.
MAX_REVOCATIONS, _MAX_LENGTH = 1000, 600

# KEYS: the sorted set. ARGV: how many there may be, for how many seconds (empty for until it is lifted), then what is
# revoked. Returns 0 where there would be too many.
_ADD = """
local now = tonumber(redis.call('TIME')[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if redis.call('ZCARD', KEYS[1]) + #ARGV - 2 > tonumber(ARGV[1]) then return 0 end
local ends = tonumber(ARGV[2]) and now + ARGV[2] or '+inf'
for i = 3, #ARGV do redis.call('ZADD', KEYS[1], ends, ARGV[i]) end
if redis.call('ZCOUNT', KEYS[1], '+inf', '+inf') > 0 then
  redis.call('PERSIST', KEYS[1])
else
  redis.call('EXPIRE', KEYS[1], 31 * 24 * 3600)
end
return 1
"""

# KEYS: the sorted set. ARGV: how many to read, the most bytes of each.
_LOOK = """
local now, found = redis.call('TIME')[1], {}
local all = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[1])
for i = 1, #all, 2 do
  if #all[i] <= tonumber(ARGV[2]) then
    found[#found + 1] = all[i]
    found[#found + 1] = all[i + 1]
  end
end
return found
"""


class Revocation(NamedTuple):
    """What is revoked, one id or all tasks of a name, and until when, in Unix seconds of Redis's clock.

    `until` is None for what holds until it is lifted.
    """

    task_id: str | None
    name: str | None
    until: float | None

    @property
    def mark(self) -> str:
        """The entry for a worker's list of revoked ids that means this revocation."""
        return self.task_id if self.task_id is not None else name_mark(self.name or "")


def name_mark(name: str) -> str:
    """The entry for a worker's list of revoked ids that means every task of this name."""
    return f"{_NAME}{name}"


def revoke_id(client: Any, task_id: str, seconds: int) -> bool:
    """Keep the task with this id from running. False where MAX_REVOCATIONS are in force already."""
    return _add(client, f"{_ID}{task_id}", seconds)


def revoke_name(client: Any, name: str, seconds: int | None) -> bool:
    """Keep every task of this name from running: a worker drops each that it takes. False as for `revoke_id`.

    Without `seconds` it holds until it is lifted.
    """
    return _add(client, name_mark(name), seconds)


def lift(client: Any, name: str) -> bool:
    """Let tasks of this name run again. Returns whether the name was revoked."""
    rename_unless(client, _KEY, "zset")
    return bool(client.zrem(_KEY, name_mark(name)))


def revocations(client: Any) -> list[Revocation]:
    """All revocations that are in force, those that end first at the beginning. What is none is left out."""
    try:
        found = client.eval(_LOOK, 1, _KEY, MAX_REVOCATIONS, _MAX_LENGTH)
    except ResponseError as error:
        if not str(error).startswith("WRONGTYPE"):
            raise
        rename_unless(client, _KEY, "zset")
        return []
    pairs = zip(found[::2], found[1::2], strict=True)
    return [revocation for member, until in pairs if (revocation := _read(member, float(until)))]


def take_over(revoked: Any, before: Iterable[str], found: Iterable[Revocation]) -> set[str]:
    """Note these revocations in a worker's list of revoked ids, in the place of those `before`.

    Returns the entries. Ids stay on the list, as Celery's own do.
    """
    marks = {revocation.mark for revocation in found}
    for lifted in set(before) - marks:
        if lifted.startswith(_NAME):
            revoked.discard(lifted)
    for new in marks - set(before):
        revoked.add(new)
    return marks


def _add(client: Any, member: str, seconds: int | None) -> bool:
    rename_unless(client, _KEY, "zset")
    return bool(client.eval(_ADD, 1, _KEY, MAX_REVOCATIONS, "" if seconds is None else seconds, member))


def _read(member: bytes | str, until: float) -> Revocation | None:
    text = member if isinstance(member, str) else member.decode("utf-8", "replace")
    if not text.isprintable():
        return None
    ends = until if isfinite(until) else None
    if text.startswith(_ID):
        return Revocation(text.removeprefix(_ID), None, ends)
    return Revocation(None, text.removeprefix(_NAME), ends) if text.startswith(_NAME) else None
