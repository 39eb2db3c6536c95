"""What the workers have counted since the beginning (tasks/monitoring/totals.py)."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from tasks.errors import codes
from tasks.mail.kinds import MailProtocol
from tasks.mail.providers import OTHER, PROVIDERS
from tasks.monitoring.totals import BOUNDS, SUM, TOTALS
from tasks.registry import TASKS
from tasks.runtime.outcomes import Outcome
from tasks.storage.states import OutboxState

# Of counts: a release has fewer, and anybody who can write to Redis can write more.
_MAX_COUNTS = 20_000
_AT_A_TIME = 1000
_MAX_DIGITS = 18

# What the parts of a name may be, by its first part (tasks/monitoring/totals.py). What this release does not know,
# such as a task that another release had, counts as OTHER.
_TASKS = frozenset(row.name for row in TASKS)
_OUTCOMES, _CODES = frozenset(Outcome), codes()
_PARTS: Mapping[str, tuple[frozenset[str], ...]] = {
    "ended": (_TASKS, _OUTCOMES),
    "run": (_TASKS, _OUTCOMES, frozenset((*BOUNDS, SUM))),
    "wait": (_TASKS, frozenset((*BOUNDS, SUM))),
    "redelivered": (_TASKS,),
    "error": (_TASKS, _CODES),
    "sync": (frozenset({"synced", "updated", "deleted", "quarantined", "bytes"}),),
    "server": (frozenset({*MailProtocol, "smtp"}), PROVIDERS, _CODES),
    "outbox": (frozenset(OutboxState),),
    "webhook_events": (frozenset({"accepted", "failed", "given_up"}),),
    "watch": (frozenset({"login", "login_failed", "lost", "missed"}),),
    "removed": (
        frozenset(
            {
                *("results_deleted", "reply_queues_deleted", "leases_released", "blobs_deleted"),
                *("dead_letters_deleted", "events_deleted"),
            }
        ),
    ),
}


@dataclass(frozen=True)
class Histogram:
    """How many times were no longer than each bound, and longer than the bound before it; and their sum."""

    counts: Mapping[str, int]
    seconds: float


@dataclass(frozen=True)
class TotalsReading:
    """Counts, by the words in the comments."""

    ended: Mapping[tuple[str, ...], int]  # by task and outcome
    redelivered: Mapping[tuple[str, ...], int]  # by task
    errors: Mapping[tuple[str, ...], int]  # by task and code
    run: Mapping[tuple[str, ...], Histogram]  # by task and outcome
    wait: Mapping[tuple[str, ...], Histogram]  # by task
    sync: Mapping[tuple[str, ...], int]  # messages by what was done to them, and bytes
    servers: Mapping[tuple[str, ...], int]  # errors by protocol, provider and code
    outbox: Mapping[tuple[str, ...], int]  # messages that came into a state, by state
    webhook_events: Mapping[tuple[str, ...], int]  # by what became of them
    watch: Mapping[tuple[str, ...], int]  # logins and ends of watchers' connections, and mail that they missed
    removed: Mapping[tuple[str, ...], int]  # what the cleanup removed, by kind


def totals(client: Any) -> TotalsReading:
    """The counts of all workers together, read through a client of the broker's Redis.

    Raises redis.exceptions.RedisError.
    """
    found: dict[str, Counter[tuple[str, ...]]] = {kind: Counter() for kind in _PARTS}
    if client.type(TOTALS) == b"hash":
        for (kind, *parts), count in _counts(client):
            found[kind][tuple(parts)] += count
    return TotalsReading(
        ended=found["ended"],
        redelivered=found["redelivered"],
        errors=found["error"],
        run=_histograms(found["run"]),
        wait=_histograms(found["wait"]),
        sync=found["sync"],
        servers=found["server"],
        outbox=found["outbox"],
        webhook_events=found["webhook_events"],
        watch=found["watch"],
        removed=found["removed"],
    )


def _counts(client: Any) -> Iterator[tuple[list[str], int]]:
    """The names of counts, in their parts, and the counts; what is neither is left out."""
    for name, count in islice(client.hscan_iter(TOTALS, count=_AT_A_TIME), _MAX_COUNTS):
        parts, digits = name.decode("utf-8", "replace").split("|"), count.decode("utf-8", "replace")
        known = _PARTS.get(parts[0], ())
        if len(parts) == 1 + len(known) > 1 and digits.isdecimal() and len(digits) <= _MAX_DIGITS:
            shown = (part if part in words else OTHER for part, words in zip(parts[1:], known, strict=True))
            yield [parts[0], *shown], int(digits)


def _histograms(counts: Mapping[tuple[str, ...], int]) -> dict[tuple[str, ...], Histogram]:
    bounds = (*BOUNDS, SUM)
    return {
        of: Histogram({bound: counts.get((*of, bound), 0) for bound in BOUNDS}, counts.get((*of, SUM), 0) / 1e6)
        for of in {of for *parts, last in counts if last in bounds for of in [tuple(parts)]}
    }
