"""Scripts that the broker's Redis runs, so that putting a message on a queue and taking one are one step each."""

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from redis.exceptions import NoPermissionError

from tasks.runtime.broker.master import NotReplicatedError
from tasks.runtime.broker.queues import wake_key

_logger = logging.getLogger(__name__)

# A message on a queue begins with the moment since which it is due, so that the age of a message is seen without
# reading the rest: {"due": 1753000000.123456, "body": … The moment is when the message was put there, or a later one
# for which it is to wait, in Unix seconds of Redis's clock. Messages of older releases begin without it.
STAMP = """
local time = redis.call('TIME')
local function stamped(message, not_before)
  local due = math.max(time[1] + time[2] / 1000000, tonumber(not_before))
  return string.format('{"due": %.6f, ', due) .. string.sub(message, 2)
end
"""

# KEYS: the queue, its tokens. ARGV: before which moment the messages are not due, the messages. There are never more
# tokens than messages: while there are tokens no worker waits, so further tokens would wake nobody.
_PUT = f"""{STAMP}
for i = 2, #ARGV do
  redis.call('LPUSH', KEYS[1], stamped(ARGV[i], ARGV[1]))
  local tokens = redis.pcall('LLEN', KEYS[2])
  if tonumber(tokens) and tokens < redis.call('LLEN', KEYS[1]) then
    redis.call('LPUSH', KEYS[2], '')
  end
end
"""

# As _PUT, for messages each of which has a mark that is set with it: a message whose mark is there is left out. KEYS:
# the queue, its tokens, the marks. ARGV: the moment after which nothing is put, how long the marks are kept, the
# messages. The message comes before its mark: where Redis is full, the first of them is refused, and nothing is done.
# A mark that is there is kept for longer: WAIT waits for what its own connection wrote, so something must be written.
_PUT_ONCE = f"""{STAMP}
if time[1] + time[2] / 1000000 > tonumber(ARGV[1]) then
  return redis.error_reply('LATE these messages come after their time')
end
for i = 3, #ARGV do
  if redis.call('EXISTS', KEYS[i]) == 0 then
    redis.call('LPUSH', KEYS[1], stamped(ARGV[i], 0))
    redis.call('SET', KEYS[i], '', 'EX', ARGV[2])
    local tokens = redis.pcall('LLEN', KEYS[2])
    if tonumber(tokens) and tokens < redis.call('LLEN', KEYS[1]) then
      redis.call('LPUSH', KEYS[2], '')
    end
  else
    redis.call('EXPIRE', KEYS[i], ARGV[2])
  end
end
"""

# KEYS: marks. ARGV: for how many seconds they are still kept.
_FORGET_MARKS = """
for i = 1, #KEYS do
  redis.call('EXPIRE', KEYS[i], ARGV[1])
end
"""

# KEYS: kombu's table of delivered messages, its index, the three of tasks/runtime/broker/aside.py, as many lists as
# there are queues and priorities, in the order in which to look, and the tokens. ARGV: the tag, the most bytes that a
# worker can take, the id of a message that is aside and comes first, for each list its queue as JSON. The entry
# written to the table is the one that kombu would write for a message to the default exchange, so that the message
# can be given back to this queue. Removals come before writes: a script that has begun to write may go on writing
# even when Redis is full. A key of another type than expected is renamed, as long as nothing has been taken. Returns
# the number of the list, the message and the time.
TAKE = """
for i, type in ipairs({'hash', 'zset', 'hash', 'hash', 'zset'}) do
  local found = redis.call('TYPE', KEYS[i]).ok
  if found ~= type and found ~= 'none' then
    redis.call('RENAME', KEYS[i], KEYS[i] .. ':of-another-type')
    return {-1, KEYS[i]}
  end
end
local time = redis.call('TIME')
local now = time[1] .. string.format('.%06d', time[2])
local function note(entry)
  redis.call('HSET', KEYS[1], ARGV[1], entry)
  redis.call('ZADD', KEYS[2], now, ARGV[1])
end
local aside = ARGV[3] ~= '' and redis.call('HGET', KEYS[3], ARGV[3])
if aside then
  redis.call('HDEL', KEYS[3], ARGV[3])
  redis.call('HDEL', KEYS[4], ARGV[3])
  redis.call('ZREM', KEYS[5], ARGV[3])
  note(aside)
  return {0, aside, now}
end
local lists = #ARGV - 3
for i = 1, lists do
  local message = redis.pcall('RPOP', KEYS[5 + i])
  if type(message) == 'table' then
    redis.call('RENAME', KEYS[5 + i], KEYS[5 + i] .. ':of-another-type')
    return {-1, KEYS[5 + i]}
  end
  if message then
    note('[' .. message .. ', "", ' .. ARGV[3 + i] .. ']')
    if #message > tonumber(ARGV[2]) then return {i, #message, now} end
    return {i, message, now}
  end
end
for i = 6 + lists, #KEYS do
  redis.call('DEL', KEYS[i])
end
return false
"""

# Deletes messages that are done, and reads those that are to be given back. KEYS: the table, its index. ARGV: the
# most bytes to read, the most bytes of an entry that a worker reads, how many messages are done, their tags, the tags
# of the others. Returns the entries of the first of the others, at least of one, and in place of an entry that is too
# large the number of its bytes. This is a script and no MULTI, as a full Redis 7.0 refuses all commands in a MULTI.
SETTLE = """
local entries, bytes = {}, 0
for i = 4, #ARGV do
  if i <= 3 + tonumber(ARGV[3]) then
    redis.call('ZREM', KEYS[2], ARGV[i])
    redis.call('HDEL', KEYS[1], ARGV[i])
  else
    local size = redis.call('HSTRLEN', KEYS[1], ARGV[i])
    if size > tonumber(ARGV[2]) then
      entries[#entries + 1] = size
    else
      bytes = bytes + size
      if #entries > 0 and bytes > tonumber(ARGV[1]) then break end
      entries[#entries + 1] = redis.call('HGET', KEYS[1], ARGV[i])
    end
  end
end
return entries
"""

# Gives messages back to their queues, each once, whoever else does so too. KEYS: the table, its index, the list of
# each message. ARGV: for each message its tag, the command that puts it on its list, before which moment it is not
# due, and its JSON. As in TAKE, a list of another type is renamed and removals come before writes: a full Redis takes
# the messages, which it had anyway.
GIVE_BACK = f"""{STAMP}
for i = 3, #KEYS do
  local found = redis.call('TYPE', KEYS[i]).ok
  if found ~= 'list' and found ~= 'none' then
    redis.call('RENAME', KEYS[i], KEYS[i] .. ':of-another-type')
  end
  local first = 4 * (i - 3) + 1
  redis.call('ZREM', KEYS[2], ARGV[first])
  if redis.call('HDEL', KEYS[1], ARGV[first]) == 1 then
    redis.call(ARGV[first + 1], KEYS[i], stamped(ARGV[first + 3], ARGV[first + 2]))
  end
end
"""

# KEYS: the index of delivered messages. A message noted as taken in the future was taken while Redis's clock was
# ahead, and would be delivered again too late: it now counts as taken at this moment. A message noted as taken before
# 1970, which kombu would never find, counts as taken in 1970. Returns the time.
TAKEN_BY_NOW = """
local time = redis.call('TIME')
local now = time[1] .. string.format('.%06d', time[2])
for _, tag in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf')) do
  redis.call('ZADD', KEYS[1], now, tag)
end
for _, tag in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(0')) do
  redis.call('ZADD', KEYS[1], 0, tag)
end
return now
"""

_MARK = "metabuilder:queued_task:{}"
# As long as rows in PostgreSQL may come again whose messages were put: nobody knows for how long PostgreSQL is away.
_MARK_SECONDS = 7 * 24 * 3600
# Once the rows are gone: longer than a beat that stood still may put its messages.
_FORGOTTEN_SECONDS = 60

# How long a replica is waited for to have what was put; it must be less than an answer is waited for.
_REPLICA_MILLISECONDS = 3000

# Bytes. No task message of ours is larger: most name mail by its id, and SMTP_MAX_MESSAGE_BYTES bounds the others.
MAX_MESSAGE_BYTES = 128 * 1024 * 1024
# Bytes of an entry in the table of delivered messages: a message and the name of its queue.
MAX_ENTRY_BYTES = MAX_MESSAGE_BYTES + 1024


def rename_unless(client: Any, key: str, kind: str) -> None:
    """Rename the key `key` if it does not hold this type, so that it can be used again."""
    if client.type(key) not in (kind, kind.encode(), "none", b"none"):
        client.rename(key, f"{key}:of-another-type")
        _logger.error("a key of Redis was of another type than it is used as; renamed %s:of-another-type", key)


def put(client: Any, key: str, queue: str, messages: Iterable[str], not_before: float = 0) -> None:
    """Append these messages, as JSON, to the list at `key`, and wake a worker for each; all or none.

    They are due from now on, or from `not_before` on, in Unix seconds of Redis's clock.

    Where Redis has Sentinels, a replica has them when this returns: what the master alone has is lost with it.

    Raises ValueError where a message is larger than a worker takes, and NotReplicatedError.
    """
    messages = _checked(messages)
    _eval_replicated(client, _PUT, 2, key, wake_key(queue), not_before, *messages)


def put_once(client: Any, key: str, queue: str, ids: Sequence[str], messages: Iterable[str], before: float) -> None:
    """As `put`, but a message whose id was put already is left out; nothing is put after the moment `before`, in Unix
    seconds of Redis's clock.

    Raises redis.exceptions.ResponseError after that moment, and ValueError as `put`.
    """
    messages = _checked(messages)
    marks = [_MARK.format(one) for one in ids]
    _eval_replicated(
        client, _PUT_ONCE, 2 + len(marks), key, wake_key(queue), *marks, before, _MARK_SECONDS, *messages
    )


def forget_marks(client: Any, ids: Sequence[str]) -> None:
    """Forget, in a while, that these ids were put: nobody will put them again."""
    if ids:
        client.eval(_FORGET_MARKS, len(ids), *(_MARK.format(one) for one in ids), _FORGOTTEN_SECONDS)


def _eval_replicated(client: Any, script: str, number_of_keys: int, *values: Any) -> None:
    """Run a script that writes; with Sentinels, return once a replica has what it wrote."""
    if "sentinels" not in client.connection_pool.connection_kwargs:
        client.eval(script, number_of_keys, *values)
        return
    with client.pipeline(transaction=False) as pipe:
        pipe.eval(script, number_of_keys, *values)
        pipe.wait(1, _REPLICA_MILLISECONDS)
        done, copies = pipe.execute(raise_on_error=False)
    if isinstance(done, Exception):
        raise done
    if isinstance(copies, NoPermissionError):
        return  # the user of an application whose rules are older than this
    if isinstance(copies, Exception):
        raise copies
    if not copies:
        raise NotReplicatedError(f"no replica of Redis has what was queued after {_REPLICA_MILLISECONDS} ms")


def _checked(messages: Iterable[str]) -> list[str]:
    messages = list(messages)
    if (size := max(map(len, messages), default=0)) > MAX_MESSAGE_BYTES:
        raise ValueError(
            f"the arguments are too large: a message of {size:,} bytes, and {MAX_MESSAGE_BYTES:,} is the most"
        )
    return messages
