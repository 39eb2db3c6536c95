"""`beat:status` and `beat:restart`: when beat queues which task."""

import sys
import time
from dataclasses import asdict

import click

from manage.examples import example
from manage.output import Cell, duration, good_or_bad, print_json, say, table
from manage.place import LOOK_AT_HEALTH
from manage.session import broker_alone, json_option

# Beat looks at its schedule every two seconds, and notes in Redis that it did.
_SILENCE_SECONDS, _START_SECONDS = 30, 30
_LOOK_SECONDS = 0.1
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


@example("beat:restart")
@click.command(name="beat:restart")
def restart() -> None:
    """Stop beat and start it again, and wait until it keeps the schedule. What is due in between is queued late."""
    from native.errors import StackError
    from native.state import State
    from native.supervisor import Supervisor

    with broker_alone() as client:
        from tasks.monitoring.readings.beat import beat

        supervisor = Supervisor(State.default())
        supervisor.stop(["beat"])
        began = time.monotonic()
        supervisor.start_program("beat")
        while not ((ticked := beat(client).ticked) is not None and ticked < time.monotonic() - began):
            if time.monotonic() - began > _START_SECONDS:
                raise StackError(f"beat has not looked at its schedule within {_START_SECONDS} s. {LOOK_AT_HEALTH}")
            time.sleep(_LOOK_SECONDS)
    say("beat keeps the schedule")
