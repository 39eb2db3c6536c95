"""How the command line speaks: progress and errors on stderr, results on stdout.

All output goes through this module, which writes out invisible characters in words of servers and mail, so that none
of their control characters reaches the terminal. Only a `Coloured` text has colours.
"""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from native.check import duration as duration
from tasks.secrecy.visible import visible, visible_json

if TYPE_CHECKING:
    from rich.progress import Progress
    from rich.status import Status
    from rich.text import Text


class Coloured(NamedTuple):
    """A text in a colour, where the terminal has colours."""

    text: str
    colour: str


Cell = str | Coloured
T = TypeVar("T")


def say(text: str) -> None:
    """Print a line of progress on stderr."""
    click.echo(visible(text), err=True)


def complain(text: str) -> None:
    """Print an error as one line on stderr."""
    click.echo(f"{click.style('error:', fg='red')} {visible(' '.join(text.split()))}", err=True)


def tell(*cells: Cell) -> None:
    """Print a line of a result."""
    shown = (
        visible(cell) if isinstance(cell, str) else click.style(visible(cell.text), fg=cell.colour) for cell in cells
    )
    click.echo("".join(shown))


def tell_lines(text: str) -> None:
    """Print a result of several lines."""
    for line in text.split("\n"):
        tell(line)


def confirm(question: str) -> None:
    """Ask, and end the program unless the answer is yes."""
    click.confirm(visible(question), abort=True, err=True)


def print_json(value: Any) -> None:
    """Print a result as JSON, for programs."""
    click.echo(visible_json(json.dumps(value, indent=2, default=str, ensure_ascii=False)))


def progress(*, quiet: bool) -> "Progress":
    """Bars of progress that count messages."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    # No markup, because a folder's name may be in square brackets.
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    return Progress(*columns, TextColumn("messages"), TimeElapsedColumn(), console=console, disable=quiet)


def waiting(what: str, *, quiet: bool) -> "Status":
    """Says what is waited for, and that the program goes on."""
    from rich.console import Console
    from rich.text import Text

    return Console(stderr=True, quiet=quiet).status(Text(visible(what)))


def track(values: Sequence[T], what: str, *, quiet: bool) -> Iterable[T]:
    """The values, with a bar of progress that goes when it is full."""
    from rich.console import Console
    from rich.progress import track as tracked

    return tracked(values, what, console=Console(stderr=True), disable=quiet, transient=True)


def table(
    columns: Sequence[str], rows: Iterable[Sequence[Cell]], *, right: Sequence[str] = (), whole: Sequence[str] = ()
) -> None:
    """Print a result as a table for people.

    Columns named in `right` are aligned to the right; cells of those named in `whole` stay on one line, to be copied.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        drawn.add_column(
            column, justify="right" if column in right else "left", overflow="fold", no_wrap=column in whole
        )
    for row in rows:
        coloured = (cell if isinstance(cell, Coloured) else Coloured(cell, "") for cell in row)
        # As Text, so that a subject or folder name in square brackets is not read as markup.
        drawn.add_row(*(Text(visible(text), style=colour) for text, colour in coloured))
    # Output into a file must not be cut to the width of a terminal.
    Console(width=None if sys.stdout.isatty() else 140).print(drawn)


@contextmanager
def full_screen() -> Iterator[Callable[[Callable[[int, int], Sequence["Text"]]], None]]:
    """The whole terminal, which is as before afterwards: a function that draws lines made for a width and a height.

    The lines are to hold visible characters alone.
    """
    from rich.console import Console, ConsoleDimensions, Group
    from rich.control import Control

    console = Console()
    with console.screen() as screen:

        def draw(lines: Callable[[int, int], Sequence["Text"]]) -> None:
            # Rich would believe COLUMNS and LINES, which say what the terminal was when it was opened.
            console.size = ConsoleDimensions(*os.get_terminal_size(sys.stdout.fileno()))
            console.control(Control.home())
            screen.update(Group(*lines(*console.size)))

        yield draw


def good_or_bad(ok: bool, text: str) -> Coloured:
    """`text` in green or red."""
    return Coloured(text, "green" if ok else "red")


def size(count: int) -> str:
    """Bytes for people: 3.4 MB."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def ago(moment: datetime | None, now: datetime) -> str:
    """How long ago something was, `now` by the clock that gave the moment."""
    if moment is None:
        return "never"
    return f"{duration(max((now - moment).total_seconds(), 0))} ago"
