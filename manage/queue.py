"""`queue:status`, `queue:list`, `queue:flush` and `task:purge`: the queues, straight from Redis."""

import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from manage.examples import example
from manage.messages import on_a_line, short, shown
from manage.output import Coloured, confirm, duration, print_json, say, size, table
from manage.session import broker_alone, json_option
from tasks.registry import QUEUES, TASKS

if TYPE_CHECKING:
    from redis import Redis

_queue = click.Choice(list(QUEUES))
_OF_QUEUE = {row.name: row.queue for row in TASKS}


@example("queue:status", "queue:status --rate 10 --json", fails="a queue is blocked")
@click.command(name="queue:status")
@click.option(
    "--rate", "seconds", type=click.IntRange(1, 600), metavar="SECONDS", help="Count for so long what comes and goes."
)
@json_option
def status(seconds: int | None, as_json: bool) -> None:
    """Show how many messages wait in each queue, and for how long the oldest has been due.

    A queue is blocked if messages are due and no worker takes any; it is shown for how long. With --rate: how many
    messages come and how many tasks end in a second. Workers tell Redis every 2 s what has ended.
    """
    with broker_alone() as client:
        from tasks.monitoring.readings.queues import queues
        from tasks.monitoring.readings.workers import workers

        ended, before, began = (_ended(client), queues(client), time.monotonic()) if seconds else ({}, (), 0.0)
        time.sleep(seconds or 0)
        found, has_worker = queues(client), any(worker.consumes for worker in workers(client))
        passed, ends = time.monotonic() - began, _ended(client) if seconds else {}
    rows: list[dict[str, Any]] = [
        {
            "queue": queue.name,
            "depth": queue.depth,
            "oldest_seconds": queue.oldest_seconds,
            "blocked_seconds": None if has_worker else queue.oldest_seconds,
        }
        for queue in found
    ]
    for row, now, then in zip(rows, found, before, strict=False):
        out = ends.get(now.name, 0) - ended.get(now.name, 0)
        row |= {"in_per_second": max(out + now.depth - then.depth, 0) / passed, "out_per_second": out / passed}
    if as_json:
        print_json(rows)
    else:
        rates = ("in/s", "out/s") if seconds else ()
        table(
            ("queue", "depth", "oldest", *rates, "blocked for"),
            (
                (
                    row["queue"],
                    f"{row['depth']:,}",
                    _duration(row["oldest_seconds"]),
                    *(f"{row[rate]:,.1f}" for rate in ("in_per_second", "out_per_second")[: len(rates)]),
                    Coloured(_duration(row["blocked_seconds"]), "red"),
                )
                for row in rows
            ),
            right=("depth", "oldest", *rates, "blocked for"),
        )
    sys.exit(1 if any(row["blocked_seconds"] is not None for row in rows) else 0)


def _ended(client: "Redis") -> Counter[str]:
    """How many tasks of each queue have ended since the beginning."""
    from tasks.monitoring.readings.totals import totals

    counts: Counter[str] = Counter()
    for (task, _), count in totals(client).ended.items():
        counts[_OF_QUEUE.get(task, "")] += count
    return counts


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
