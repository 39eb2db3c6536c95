"""`tasks active`, `reserved`, `scheduled`, `registered`, `failed` and `revoked`: the tasks of all workers, without
asking any."""

from typing import Any

import click

from manage.dlq import filters
from manage.dlq import list_ as list_letters
from manage.examples import example
from manage.messages import on_a_line, short, shortened, shown
from manage.output import duration, print_json, say, table
from manage.session import broker_alone, json_option
from tasks.registry import TASKS

# Of messages in hand: a worker holds a few, and tasks that wait for their time up to CELERY_WORKER_ETA_TASK_LIMIT.
_limit = click.option(
    "--limit", default=100, show_default=True, type=click.IntRange(1, 10_000), help="How many messages to look at."
)


@click.group(name="tasks")
def tasks_() -> None:
    """List tasks: at work, waiting in a worker, known, failed for good, revoked."""


@example("tasks active", "tasks active --json")
@tasks_.command()
@json_option
def active(as_json: bool) -> None:
    """List the tasks that run now, the longest at the top, by what the workers last reported (every 2 s)."""
    with broker_alone() as client:
        from tasks.monitoring.readings.workers import tasks_at_work, workers

        found = sorted(tasks_at_work(workers(client)), key=lambda at_work: -at_work.seconds)
    rows = [
        {
            "worker": at_work.node,
            "pid": at_work.pid,
            "task": at_work.work.name,
            "id": at_work.work.id,
            "args": at_work.work.positional,
            "kwargs": at_work.work.named,
            "seconds": round(at_work.seconds, 1),
        }
        for at_work in found
    ]
    if as_json:
        print_json(rows)
    elif not rows:
        say("No task runs now")
    else:
        table(
            ("worker", "task", "id", "arguments", "for"),
            (
                (
                    str(row["worker"]),
                    short(str(row["task"])),
                    str(row["id"]),
                    shortened(f"{row['args']} {row['kwargs']}"),
                    duration(at_work.seconds),
                )
                for row, at_work in zip(rows, found, strict=True)
            ),
            right=("for",),
            whole=("id",),
        )


@example("tasks reserved")
@tasks_.command()
@_limit
@json_option
def reserved(limit: int, as_json: bool) -> None:
    """List the tasks that a worker has taken and no process has begun.

    Those of a worker that died are among them, until they are given back to their queues.
    """
    _show_in_hand(limit, as_json, is_scheduled=False)


@example("tasks scheduled --limit 1000")
@tasks_.command()
@_limit
@json_option
def scheduled(limit: int, as_json: bool) -> None:
    """List the tasks that wait in a worker for their time, such as those that are tried again.

    `beat:status` says what beat queues when.
    """
    _show_in_hand(limit, as_json, is_scheduled=True)


def _show_in_hand(limit: int, as_json: bool, *, is_scheduled: bool) -> None:
    with broker_alone() as client:
        from tasks.monitoring.readings.workers import tasks_at_work, workers
        from tasks.runtime.broker.contents import in_hand

        at_work = {one.work.id for one in tasks_at_work(workers(client))}
        found = [
            message
            for message in in_hand(client, limit)
            if message.is_scheduled == is_scheduled and message.taken.header("id") not in at_work
        ]
    rows = [{"queue": one.queue, "taken_seconds": round(one.seconds, 1), **shown(one.taken)} for one in found]
    if as_json:
        print_json(rows)
    elif not rows:
        say(f"No task is {'scheduled' if is_scheduled else 'reserved'}")
    else:
        table(
            ("queue", "task", "id", "arguments", "not before", "taken"),
            (
                (
                    row["queue"] or "?",
                    short(row["task"]),
                    row["id"] or "?",
                    on_a_line(row["arguments"]),
                    row["eta"] or "",
                    f"{duration(row['taken_seconds'])} ago",
                )
                for row in rows
            ),
            right=("taken",),
            whole=("id",),
        )


@example("tasks registered")
@tasks_.command()
@json_option
def registered(as_json: bool) -> None:
    """List the tasks that this release knows, their queues, and when beat queues them."""
    rows = [
        {
            "task": row.function,
            "name": row.name,
            "queue": row.queue,
            "every_seconds": row.schedule.seconds if row.schedule else None,
        }
        for row in TASKS
    ]
    if as_json:
        print_json(rows)
        return
    table(
        ("task", "name", "queue", "every"),
        (
            (row.function, row.name, row.queue, duration(row.schedule.seconds) if row.schedule else "")
            for row in TASKS
        ),
        right=("every",),
    )


@example("tasks failed --task send_email")
@tasks_.command()
@filters
@click.pass_context
def failed(context: click.Context, /, **chosen: Any) -> None:
    """List the tasks that failed for good, and messages that no worker could run. The same as `dlq list`."""
    context.invoke(list_letters, **chosen)


@example("tasks revoked")
@tasks_.command()
@json_option
def revoked(as_json: bool) -> None:
    """List what `task:revoke` keeps from running, and for how long.

    What the application revoked (`revoke_task`) is not among it: only the workers know that, until they stop.
    """
    with broker_alone() as client:
        from tasks.runtime.broker.clock import redis_now
        from tasks.runtime.revocations import revocations

        now = redis_now(client)
        found = [
            (one.task_id, one.name, None if one.until is None else max(round(one.until - now), 0))
            for one in revocations(client)
        ]
    if as_json:
        print_json([{"id": task_id, "name": name, "seconds": seconds} for task_id, name, seconds in found])
    elif not found:
        say("Nothing is revoked")
    else:
        table(
            ("revoked", "for another"),
            (
                (task_id or f"all {short(name)}", "until lifted" if seconds is None else duration(seconds))
                for task_id, name, seconds in found
            ),
            right=("for another",),
        )
