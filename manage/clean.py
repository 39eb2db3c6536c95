"""`clean:logs`, `clean:redis`, `clean:db` and `clean:all`: remove what nobody needs any more."""

import time
from typing import TYPE_CHECKING

import click

from manage.examples import example
from manage.output import confirm, print_json, say, size, table
from manage.session import application, connect, json_option

if TYPE_CHECKING:
    from tasks.maintenance import Step

# Nothing more is begun after so many seconds; the next run goes on from there.
_SECONDS = 600
_yes = click.option("--yes", is_flag=True, help="Do not ask before deleting.")


@example("clean:logs --yes")
@click.command(name="clean:logs")
@_yes
def logs(yes: bool) -> None:
    """Delete the old log files of the native stack, and empty those in use."""
    if not yes:
        confirm("Delete the logs of the native stack?")
    _clean_logs()


def _clean_logs() -> None:
    from native.logs import clear
    from native.state import State

    say(f"{size(clear(State.default().logs))} of logs are deleted")


@example("clean:redis")
@click.command(name="clean:redis")
@json_option
def redis(as_json: bool) -> None:
    """Delete old results, answers that nobody fetched, and old messages that no worker could run, from Redis.

    Beat has it done every hour (cleanup_stale_results). Queues are not touched: `queue:flush`.
    """
    connect(database=False, broker=True)
    from tasks.maintenance import in_redis

    _run(in_redis(application()), as_json)


@example("clean:db")
@click.command(name="clean:db")
@json_option
def database(as_json: bool) -> None:
    """Delete old dead letters and attachments that no message has, and end expired leases, in PostgreSQL.

    Beat has it done every hour (cleanup_stale_results). No mail is deleted. Ends after ten minutes at most; the next
    run goes on from there.
    """
    connect(broker=True)
    from tasks.maintenance import in_postgresql

    _run(in_postgresql(application(), _deadline()), as_json)


@example("clean:all --yes")
@click.command(name="clean:all")
@_yes
@json_option
def everything(yes: bool, as_json: bool) -> None:
    """Do what `clean:logs`, `clean:redis` and `clean:db` do."""
    if not yes:
        confirm("Delete the logs of the native stack, and clean Redis and PostgreSQL?")
    connect(broker=True)
    from tasks.maintenance import in_postgresql, in_redis

    _clean_logs()
    _run((*in_redis(application()), *in_postgresql(application(), _deadline())), as_json)


def _deadline() -> float:
    return time.monotonic() + _SECONDS


def _run(steps: "tuple[Step, ...]", as_json: bool) -> None:
    from tasks.maintenance import remove

    removed = remove(*steps)
    if as_json:
        print_json(removed)
    else:
        table(
            ("removed", "count"),
            ((name.rpartition("_")[0].replace("_", " "), f"{count:,}") for name, count in removed.items()),
            right=("count",),
        )
