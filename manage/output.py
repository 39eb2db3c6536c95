"""How the command line speaks: progress and errors on stderr, results on stdout."""

import json
import shlex
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import click

from manage.place import COMMAND

# The codes of errors that another password mends.
NEEDS_PASSWORD = ("authentication_failed", "login_refused", "credential_unreadable")


def password_advice(account: str) -> str:
    """How to store another password."""
    return f"store another password with {COMMAND} account password {shlex.quote(account)}"


def say(text: str) -> None:
    """A line of progress."""
    click.echo(text, err=True)


def complain(text: str) -> None:
    """An error, as one line."""
    click.echo(f"{click.style('error:', fg='red')} {' '.join(text.split())}", err=True)


def print_json(value: Any) -> None:
    """A result for machines."""
    click.echo(json.dumps(value, indent=2, default=str, ensure_ascii=False))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """A result for people. Columns named in `right` are aligned to the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        drawn.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        # As Text: a subject or folder name in square brackets is not markup.
        drawn.add_row(*(Text.from_ansi(cell) for cell in row))
    # Piped into a file there is no terminal whose width could cut lines.
    Console(width=None if sys.stdout.isatty() else 140).print(drawn)


def good_or_bad(ok: bool, text: str) -> str:
    """`text` in green or red, where the terminal has colours."""
    return click.style(text, fg="green" if ok else "red") if sys.stdout.isatty() else text


def size(count: int) -> str:
    """Bytes for people: 3.4 MB."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def duration(seconds: float) -> str:
    """Seconds for people: 2 d 03:04:05."""
    whole = int(seconds)
    days, rest = divmod(whole, 86_400)
    clock = f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days} d {clock}" if days else clock


def ago(moment: datetime | None) -> str:
    """How long ago something was."""
    if moment is None:
        return "never"
    return f"{duration((datetime.now(UTC) - moment).total_seconds())} ago"
