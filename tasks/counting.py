"""What a run of a task counts, for whoever adds up the counts of all runs (tasks/monitoring/run_counts.py).

A count is named by its parts, which come from fixed lists, so that the number of names stays bounded. Outside of a
run, and in other threads than the run's own, nothing is counted.
"""

from collections import Counter
from collections.abc import Mapping
from contextvars import ContextVar

_counts: ContextVar[Counter[tuple[str, ...]] | None] = ContextVar("_counts", default=None)


def begin() -> None:
    """A run begins, without counts."""
    _counts.set(Counter())


def end() -> Mapping[tuple[str, ...], int]:
    """A run ends. Returns its counts."""
    counts = _counts.get()
    _counts.set(None)
    return counts or {}


def count(*parts: str, amount: int = 1) -> None:
    """Add to the count whose name has these parts."""
    counts = _counts.get()
    if counts is not None and amount:
        counts[parts] += amount
