"""`queue:list`, `queue:flush` and `task:purge`: the queues, straight from Redis."""

from collections.abc import Sequence
from typing import Any

import click

from manage.examples import example
from manage.output import confirm, print_json, say, shortened, size, table
from manage.session import broker_alone, json_option
from tasks.registry import QUEUES

_queue = click.Choice(list(QUEUES))


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
    messages = [_shown(message) for message in found]
    if as_json:
        print_json({"queue": queue, "depth": depth, "messages": messages})
        return
    if messages:
        table(
            ("task", "id", "arguments", "not before", "expires", "size"),
            (
                (
                    (message["task"] or "?").rpartition(".")[2],
                    message["id"] or "?",
                    shortened(message["arguments"]),
                    message["eta"] or "",
                    message["expires"] or "",
                    size(message["bytes"]),
                )
                for message in messages
            ),
            right=("size",),
        )
    say(f"{len(messages)} of {depth} messages" if depth else f"The queue {queue} is empty")


def _shown(message: Any) -> dict[str, Any]:
    import tasks.celery_app  # noqa: F401 - becomes the application whose tasks say which arguments may be shown
    from tasks.runtime.dead_letters import shown_arguments

    headers = {name: message.header(name) for name in ("task", "id", "eta", "expires")}
    return {**headers, "arguments": shown_arguments(message.message), "bytes": message.size}


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
