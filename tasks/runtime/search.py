"""A worker's search for messages that other workers put aside because they do not know the task, and that it can run.

Thousands of messages may be aside, and the search runs in the event loop, between messages. So the search looks at a
part of them at a time, and asks Redis once for each part. After the last part it pauses and begins again.
"""

from collections import deque
from collections.abc import Container
from time import monotonic
from typing import Any

from celery import Celery
from redis.exceptions import ResponseError

from tasks.errors import EmailError
from tasks.runtime.admission import admit_raw
from tasks.runtime.broker import aside
from tasks.runtime.broker.scripts import rename_unless

# In one part. Checking a message costs the event loop some 0.2 ms, and looking at its note costs Redis 0.004 ms.
_MAX_LOOKED_AT, _MAX_CHECKED, _MAX_CHECKED_BYTES = 500, 100, 1_000_000
# The pause after the last part.
_PAUSE_SECONDS = 5

# KEYS: the three keys of tasks/runtime/broker/aside.py. ARGV: how many seconds a message waits for a worker that
# knows its task, how many ids to pass over, how many to look at, how many messages and how many bytes of them to
# return, then the tasks that the worker knows. A message that has waited longer stays aside until a person acts. The
# note names the task, so that messages of other tasks are not read; where the note does not, the message is read.
# Returns whether these were the last ids, how many of them are still in the sorted set, and the id and the message of
# each whose task the worker may know.
_LOOK = """
local now = tonumber(redis.call('TIME')[1])
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', '(' .. now - tonumber(ARGV[1]))
local known = {}
for i = 6, #ARGV do known[ARGV[i]] = true end
local skip, most = tonumber(ARGV[2]), tonumber(ARGV[3])
local tags = redis.call('ZRANGE', KEYS[3], skip, skip + most - 1)
local kept, bytes, found = 0, 0, {}
for _, tag in ipairs(tags) do
  local size = redis.call('HSTRLEN', KEYS[1], tag)
  if size == 0 then
    redis.call('ZREM', KEYS[3], tag)
  else
    local is_read, note = pcall(cjson.decode, redis.call('HGET', KEYS[2], tag) or '')
    local task = is_read and type(note) == 'table' and note.task_name
    if type(task) ~= 'string' or known[task] then
      bytes = bytes + size
      local is_full = #found == tonumber(ARGV[4]) or #found > 0 and bytes > tonumber(ARGV[5])
      if is_full then return {0, kept, found} end
      table.insert(found, {tag, redis.call('HGET', KEYS[1], tag)})
    end
    kept = kept + 1
  end
end
return {#tags < most and 1 or 0, kept, found}
"""


class Search:
    """The place at which a worker's search has arrived."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._passed = 0  # how many of the messages that wait were looked at since the beginning
        self._not_before = 0.0

    def look(self, client: Any, hours: float, queues: Container[str]) -> deque[aside.Tag]:
        """Look at the next messages. Returns the ids of those that came from `queues` and that this worker can run.

        The caller takes them before it calls again. A message waits `hours` for a worker that knows its task.
        """
        if monotonic() < self._not_before:
            return deque()
        try:
            are_last, looked_at, found = self._ask(client, hours)
        except ResponseError:
            # A worker looks before it takes messages: a key of another type would keep it from its work.
            for key, kind in aside.KEYS.items():
                rename_unless(client, key, kind)
            are_last, looked_at, found = self._ask(client, hours)
        wanted = deque(tag for tag, entry in found if self._can_be_run(entry, queues))
        if are_last:
            self._passed, self._not_before = 0, monotonic() + _PAUSE_SECONDS
        else:
            self._passed += looked_at - len(wanted)
        return wanted

    def _ask(self, client: Any, hours: float) -> Any:
        limits = self._passed, _MAX_LOOKED_AT, _MAX_CHECKED, _MAX_CHECKED_BYTES
        return client.eval(_LOOK, len(aside.KEYS), *aside.KEYS, int(hours * 3600), *limits, *self._app.tasks)

    def _can_be_run(self, entry: bytes | str, queues: Container[str]) -> bool:
        message, queue = aside.split(entry)
        try:
            admit_raw(self._app, message)
        except EmailError:
            return False  # the message is for another release
        return queue in queues
