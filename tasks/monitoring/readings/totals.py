"""What the workers have counted since the beginning (tasks/monitoring/totals.py)."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from tasks.errors import codes
from tasks.monitoring.totals import BOUNDS, SUM, TOTALS
from tasks.registry import TASKS
from tasks.runtime.signals import Outcome

# Stands for names that this release does not know, such as those of tasks that another release had.
OTHER = "other"
# Of counts: a release has fewer, and anybody who can write to Redis can write more.
_MAX_COUNTS = 20_000
_AT_A_TIME = 1000
_MAX_DIGITS = 18

# What the parts of a name may be, by its first part (tasks/monitoring/totals.py).
_TASKS = frozenset(row.name for row in TASKS)
_OUTCOMES, _CODES = frozenset(Outcome), codes()
_PARTS: Mapping[str, tuple[frozenset[str], ...]] = {
    "ended": (_TASKS, _OUTCOMES),
    "run": (_TASKS, _OUTCOMES, frozenset((*BOUNDS, SUM))),
    "wait": (_TASKS, frozenset((*BOUNDS, SUM))),
    "redelivered": (_TASKS,),
    "error": (_TASKS, _CODES),
}


@dataclass(frozen=True)
class Histogram:
    """How many times were no longer than each bound, and longer than the bound before it; and their sum."""

    counts: Mapping[str, int]
    seconds: float


@dataclass(frozen=True)
class TotalsReading:
    """Counts by task, and by outcome or code of an error."""

    ended: Mapping[tuple[str, ...], int]  # by task and outcome
    redelivered: Mapping[tuple[str, ...], int]  # by task
    errors: Mapping[tuple[str, ...], int]  # by task and code
    run: Mapping[tuple[str, ...], Histogram]  # by task and outcome
    wait: Mapping[tuple[str, ...], Histogram]  # by task


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
