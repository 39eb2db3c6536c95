"""`stats`: what the workers have counted since the beginning."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import click

from manage.examples import example
from manage.messages import short
from manage.output import good_or_bad, print_json, say, table
from manage.session import broker_alone, json_option

if TYPE_CHECKING:
    from tasks.monitoring.readings.totals import Histogram, TotalsReading


@dataclass(frozen=True)
class _Row:
    """Runs of a task by how they ended, how long they took and waited on average, in seconds, and how many waited no
    longer than each number of seconds, and longer than the number before it."""

    task: str
    ended: dict[str, int]
    run_seconds: float | None
    wait_seconds: float | None
    waits: dict[str, int]


@example("stats", "stats --json")
@click.command()
@json_option
def stats(as_json: bool) -> None:
    """Show how often each task ran, how it ended, and how long it ran and waited on average.

    Counted by all workers since the site was set up; a worker that is killed takes no more than its last seconds with
    it.
    """
    with broker_alone() as client:
        from tasks.monitoring.readings.totals import totals

        rows = _rows(totals(client))
    if as_json:
        print_json([asdict(row) for row in rows])
    elif not rows:
        say("No task has ended yet")
    else:
        table(
            ("task", "succeeded", "failed", "other ends", "runs for", "waits for"),
            (
                (
                    short(row.task),
                    f"{(succeeded := row.ended.get('success', 0)):,}",
                    good_or_bad(not (failed := row.ended.get("failure", 0)), f"{failed:,}"),
                    f"{sum(row.ended.values()) - succeeded - failed:,}",
                    _seconds(row.run_seconds),
                    _seconds(row.wait_seconds),
                )
                for row in rows
            ),
            right=("succeeded", "failed", "other ends", "runs for", "waits for"),
        )


def _rows(found: "TotalsReading") -> list[_Row]:
    rows = []
    for task in sorted({name for name, _ in found.ended}):
        ended = {outcome: count for (name, outcome), count in found.ended.items() if name == task}
        runs = [histogram for (name, _), histogram in found.run.items() if name == task]
        waits = [histogram for (name,), histogram in found.wait.items() if name == task]
        counts = {bound: sum(one.counts[bound] for one in waits) for one in waits for bound in one.counts}
        rows.append(_Row(task, ended, _average(runs), _average(waits), counts))
    return rows


def _average(histograms: "list[Histogram]") -> float | None:
    count = sum(sum(histogram.counts.values()) for histogram in histograms)
    return sum(histogram.seconds for histogram in histograms) / count if count else None


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:,.2f} s"
