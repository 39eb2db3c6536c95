"""Counts of tasks since the beginning, over all workers, in the broker's Redis:

    metabuilder:totals              a hash: the name of each count, and the count
    metabuilder:totals:<process>    the same of one main process: how far the process has told its counts

Each main process counts for itself, and tells its counts every few seconds. One script in Redis adds what has come
since the process last told, so a count that is told twice counts once, and a worker that is killed takes with it no
more than the counts of the last seconds. Counts are whole numbers; times are summed in microseconds.

The names of counts, whose parts are bounded by the tasks, outcomes and errors that a release knows:

    ended|<task>|<outcome>              runs that ended (tasks/runtime/outcomes.py)
    run|<task>|<outcome>|<bound>        runs that took no longer than the bound, and longer than the bound before it
    run|<task>|<outcome>|sum            how long they took
    wait|<task>|<bound>, …|sum          the same of the time from when a task was due until it began
    redelivered|<task>                  runs of messages that had been given back
    error|<task>|<code>                 runs that ended with this error

The processes of the pool add what runs of tasks count themselves (tasks/monitoring/run_counts.py), at once:

    sync|<change>                       messages that syncs stored, updated, deleted or put aside; bytes stored
    server|<protocol>|<provider>|<code> errors of mail servers
    outbox|<state>                      messages of the outbox that came into this state
    removed|<kind>                      what the hourly cleanup removed

    watch|missed                        polls that found mail in a watched mailbox

Watchers of mailboxes add the rest (tasks/watch/):

    watch|login, login_failed, lost     logins that worked or did not, and connections that ended by themselves
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from threading import RLock
from typing import Any
from uuid import uuid4

from tasks.runtime.broker.scripts import rename_unless

TOTALS = "metabuilder:totals"
_OF_PROCESS = "metabuilder:totals:{}"
# Longer than a worker is cut off from Redis: counts of a process that are forgotten would be added once more.
_REMEMBERED_SECONDS = 7 * 24 * 3600

# Seconds. The last bound is for all that takes longer.
BOUNDS = ("0.01", "0.05", "0.1", "0.5", "1", "5", "10", "30", "60", "120", "300", "600", "1800", "3600", "+Inf")
_BOUNDS = tuple(map(float, BOUNDS))
SUM = "sum"

# KEYS: the totals, those of the process. ARGV: how long to remember the latter, then names and counts. The first
# command changes nothing, but lets a full Redis take the rest. A total that is no number begins anew.
_ADD = """
redis.call('EXPIRE', KEYS[2], ARGV[1])
for i = 2, #ARGV, 2 do
  local more = ARGV[i + 1] - (tonumber(redis.call('HGET', KEYS[2], ARGV[i])) or 0)
  if more > 0 then
    local added = redis.pcall('HINCRBY', KEYS[1], ARGV[i], string.format('%.0f', more))
    if type(added) == 'table' then redis.call('HSET', KEYS[1], ARGV[i], string.format('%.0f', more)) end
    redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
  end
end
redis.call('EXPIRE', KEYS[2], ARGV[1])
"""


class Totals:
    """The counts of this process. Safe to use from several threads, and in the handler of a signal."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._told: Mapping[str, int] = {}
        self._lock = RLock()
        self._key = _OF_PROCESS.format(uuid4())

    def add(self, *parts: str, amount: int = 1) -> None:
        """Add to the count whose name has these parts."""
        with self._lock:
            self._counts["|".join(parts)] += amount

    def observe(self, seconds: float, *parts: str) -> None:
        """Add a time to the histogram whose name has these parts."""
        seconds = max(seconds, 0)
        self.add(*parts, BOUNDS[bisect_left(_BOUNDS, seconds)])
        self.add(*parts, SUM, amount=round(seconds * 1e6))

    def tell(self, client: Any) -> None:
        """Have Redis add what has come since the last call that raised no error."""
        with self._lock:
            counts = dict(self._counts)
        changed = [part for name, count in counts.items() if self._told.get(name) != count for part in (name, count)]
        client.eval(_ADD, 2, TOTALS, self._key, _REMEMBERED_SECONDS, *changed)
        self._told = counts


def add(client: Any, counts: Mapping[tuple[str, ...], int]) -> None:
    """Add counts, by the parts of their names. Raises redis.exceptions.RedisError."""
    with client.pipeline(transaction=False) as pipe:
        for parts, amount in counts.items():
            pipe.hincrby(TOTALS, "|".join(parts), amount)
        pipe.execute()


def mend(client: Any) -> None:
    """Make room where somebody wrote something else into the key."""
    rename_unless(client, TOTALS, "hash")
