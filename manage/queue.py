"""`queue:status`, `queue:list`, `queue:flush` and `task:purge`: the queues, straight from Redis."""

import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from manage.examples import example
from manage.messages import on_a_line, short, shown
from manage.output import Coloured, confirm, duration, print_json, say, size, table
from manage.session import broker_alone, json_option
from tasks.registry import QUEUES

if TYPE_CHECKING:
    from redis import Redis

    from tasks.monitoring.readings.rates import Rate

_queue = click.Choice(list(QUEUES))
_RATES = {"in_per_second": "in/s", "out_per_second": "out/s"}


@example("queue:status", "queue:status --rate 10 --json", fails="a queue is blocked")
@click.command(name="queue:status")
@click.option(
    "--rate", "seconds", type=click.IntRange(1, 600), metavar="SECONDS", help="Count for so long what comes and goes."
)
@json_option
def status(seconds: int | None, as_json: bool) -> None:
    """Show how many messages wait in each queue, for how long the oldest has been due, and what comes and goes.

    A queue is blocked if messages are due and no worker takes any; it is shown for how long. Rates are messages that
    come and tasks that end in a second, over the last half minute by what workers noted meanwhile: empty where none
    did. With --rate, from now on. Workers tell Redis every 2 s what has ended.
    """
    with broker_alone() as client:
        from tasks.monitoring.readings.queues import queues
        from tasks.monitoring.readings.rates import rates
        from tasks.monitoring.readings.workers import workers

        counted = _counted(client, seconds) if seconds else None
        found, has_worker = queues(client), any(worker.consumes for worker in workers(client))
        passed = rates(client, found) if counted is None else counted
    rows: list[dict[str, Any]] = [
        {
            "queue": queue.name,
            "depth": queue.depth,
            "oldest_seconds": queue.oldest_seconds,
            "blocked_seconds": None if has_worker else queue.oldest_seconds,
            **(passed[queue.name]._asdict() if queue.name in passed else dict.fromkeys(_RATES)),
        }
        for queue in found
    ]
    if as_json:
        print_json(rows)
    else:
        table(
            ("queue", "depth", "oldest", *_RATES.values(), "blocked for"),
            (
                (
                    row["queue"],
                    f"{row['depth']:,}",
                    _duration(row["oldest_seconds"]),
                    *("" if row[rate] is None else f"{row[rate]:,.1f}" for rate in _RATES),
                    Coloured(_duration(row["blocked_seconds"]), "red"),
                )
                for row in rows
            ),
            right=("depth", "oldest", *_RATES.values(), "blocked for"),
        )
    sys.exit(1 if any(row["blocked_seconds"] is not None for row in rows) else 0)


def _counted(client: "Redis", seconds: int) -> "Mapping[str, Rate]":
    """The rates of the next seconds."""
    from tasks.monitoring.readings.queues import queues
    from tasks.monitoring.readings.rates import between, snapshot
    from tasks.monitoring.readings.totals import totals

    then = snapshot(time.monotonic(), queues(client), totals(client))
    time.sleep(seconds)
    return between(then, snapshot(time.monotonic(), queues(client), totals(client)))


def _duration(seconds: float | None) -> str:
    return "" if seconds is None else duration(seconds)


@example("queue:list sync", "queue:list send --limit 5 --json")
@click.command(name="queue:list")
@click.argument("queue", type=_queue)
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 1000), help="How many messages.")
@json_option
def list_(queue: str, limit: int, as_json: bool) -> None:
    """List the messages of a queue, in the order in which workers take them.

    Arguments are shown as in Flower: identifiers, numbers, and the sizes of the rest.
    """
    with broker_alone() as client:
        from tasks.runtime.broker.contents import count, look

        found, depth = list(look(client, queue, limit)), count(client, queue)
    messages = [shown(message) for message in found]
    if as_json:
        print_json({"queue": queue, "depth": depth, "messages": messages})
        return
    if messages:
        table(
            ("task", "id", "arguments", "not before", "expires", "size"),
            (
                (
                    short(message["task"]),
                    message["id"] or "?",
                    on_a_line(message["arguments"]),
                    message["eta"] or "",
                    message["expires"] or "",
                    size(message["bytes"]),
                )
                for message in messages
            ),
            right=("size",),
            whole=("id",),
        )
    say(f"{len(messages)} of {depth} messages" if depth else f"The queue {queue} is empty")


def _purge_options(command: Any) -> Any:
    command = click.option("--yes", is_flag=True, help="Do not ask before deleting.")(command)
    return json_option(command)


@example("queue:flush spam --yes")
@click.command(name="queue:flush")
@click.argument("queue", type=_queue)
@_purge_options
def flush(queue: str, yes: bool, as_json: bool) -> None:
    """Delete all messages of a queue. The same as `task:purge QUEUE`.

    The work of their tasks is not done, and mail that was to be sent is not sent. Beat queues again what it queued:
    syncs of accounts that are due, mail that waits in the outbox. Tasks that workers have in hand go on.
    """
    _purge((queue,), yes=yes, as_json=as_json)


@example("task:purge", "task:purge spam --yes")
@click.command(name="task:purge")
@click.argument("queue", type=_queue, required=False)
@_purge_options
def purge(queue: str | None, yes: bool, as_json: bool) -> None:
    """Delete all tasks that wait in a queue, or in all queues. See `queue:flush` for what becomes of their work."""
    _purge((queue,) if queue else tuple(QUEUES), yes=yes, as_json=as_json)


def _purge(queues: Sequence[str], *, yes: bool, as_json: bool) -> None:
    with broker_alone() as client:
        from tasks.runtime.broker import contents

        if not yes:
            waiting = {queue: contents.count(client, queue) for queue in queues}
            named = ", ".join(f"{depth:,} in {queue}" for queue, depth in waiting.items())
            confirm(f"Delete the waiting messages ({named})? The work of their tasks is not done")
        deleted = {queue: contents.purge(client, queue) for queue in queues}
    if as_json:
        print_json({"deleted": deleted})
    else:
        say(f"{sum(deleted.values()):,} messages are deleted")
