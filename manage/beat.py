"""`beat:status`: when beat queues which task."""

import sys
from dataclasses import asdict

import click

from manage.examples import example
from manage.output import Cell, duration, good_or_bad, print_json, say, table
from manage.place import LOOK_AT_HEALTH
from manage.session import broker_alone, json_option

# Beat looks at its schedule every two seconds, and notes in Redis that it did.
_SILENCE_SECONDS = 30
# A run that is so much behind its time is late.
_LATE_SECONDS = 5


@example("beat:status", fails="no beat has looked at the schedule within 30 s")
@click.command(name="beat:status")
@json_option
def status(as_json: bool) -> None:
    """Show when each entry of beat's schedule last ran and runs next, by Redis's clock."""
    with broker_alone() as client:
        from tasks.monitoring.readings.beat import beat

        found = beat(client)
    if as_json:
        print_json(asdict(found))
    else:
        table(
            ("entry", "task", "every", "last run", "next run"),
            (
                (
                    entry.name,
                    entry.task.rpartition(".")[2],
                    duration(entry.every),
                    "unknown" if entry.last_run is None else f"{duration(max(entry.last_run, 0))} ago",
                    _next_run(entry.next_run),
                )
                for entry in found.entries
            ),
            right=("every", "last run", "next run"),
        )
    is_alive = found.ticked is not None and found.ticked <= _SILENCE_SECONDS
    if found.ticked is None:
        say(f"No beat has looked at the schedule yet. {LOOK_AT_HEALTH}")
    elif not is_alive:
        say(f"No beat has looked at the schedule for {duration(found.ticked)}. {LOOK_AT_HEALTH}")
    sys.exit(0 if is_alive else 1)


def _next_run(seconds: float | None) -> Cell:
    if seconds is None:
        return "unknown"
    late = -seconds > _LATE_SECONDS
    return good_or_bad(
        not late, f"in {duration(seconds)}" if seconds > 0 else f"late by {duration(-seconds)}" if late else "now"
    )
