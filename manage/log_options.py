"""The options of `logs`, which are the same for the logs of a clone and the journals of hosts."""

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import click

from manage.output import say

LINES = 50
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def log_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`-f`, `--lines`, `--since` (a datetime), `--account` and `--task`."""
    for option in (
        click.option("--task", "task_id", metavar="ID", help="Lines of the task with this id."),
        click.option("--account", metavar="ID", help="Lines of this account, by the id that account list shows."),
        click.option(
            "--since",
            metavar="TIME",
            callback=_since,
            help="Lines since 10m, 2h or 3d ago, since 15:00, or since 2026-11-27 15:00.",
        ),
        click.option(
            "-n",
            "--lines",
            type=click.IntRange(min=0),
            help=f"How many lines of each log: {LINES} by default, all with the options that choose lines.",
        ),
        click.option("-f", "--follow", is_flag=True, help="Go on with what is added, until Ctrl-C."),
    ):
        command = option(command)
    return command


def say_no_line(account: str | None, task_id: str | None) -> None:
    """Say that there is no line, and how an account and a task that were asked for are named."""
    of_account = "; --account takes an account's id, as account list shows it" if account else ""
    of_task = "; --task takes the whole id of a task" if task_id else ""
    say(f"There is no such line{of_account}{of_task}")


def _since(_context: click.Context, _parameter: click.Parameter, text: str | None) -> datetime | None:
    try:
        return moment(text, datetime.now().astimezone()) if text else None
    except (ValueError, OverflowError):
        raise click.UsageError(f"--since takes 90s, 10m, 2h, 3d, 15:00 or 2026-11-27 15:00, not {text}") from None


def moment(text: str, now: datetime) -> datetime:
    """The time that is meant by 90s, 10m, 2h or 3d (ago), by 2026-11-27, 2026-11-27 15:00, or by 15:00 (today).

    Raises ValueError.
    """
    if ago := re.fullmatch(r"(\d{1,9})([smhd])", text):
        return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    if re.fullmatch(r"\d\d:\d\d(:\d\d)?", text):
        text = f"{now.date()} {text}"
    return datetime.fromisoformat(text).astimezone()
