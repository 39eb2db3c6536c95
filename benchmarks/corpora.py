"""A folder of messages read by this project's parser and by others, side by side, and where they differ.

Agreement is no proof: a person looks at the list. The others are the standard library's parser and, where node and
the packages are there (`npm install postal-mime mailparser`), two of npm's.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.support.readings import NPM_PARSERS, Reading, library, npm, ours

_WIDTH = 100


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--node-modules", type=click.Path(path_type=Path), default=Path("node_modules"), help="Where npm's packages are."
)
@click.option("--show", default=50, show_default=True, help="Readings to list that no other parser shares.")
def main(folder: Path, node_modules: Path, show: int) -> None:
    """The share of the messages in FOLDER (*.eml, at any depth) that other parsers read as this one does."""
    console = Console()
    paths = sorted(path for path in folder.rglob("*.eml") if path.is_file())
    if not paths:
        raise click.ClickException(f"no file in {folder} ends in .eml")
    mine = [reading for reading in ours(paths) if reading]
    others: dict[str, Sequence[Reading | None]] = {"email": list(library(paths))}
    for package in NPM_PARSERS:
        if reader := npm(package, node_modules):
            others[package] = list(reader(paths))
        else:
            console.print(f"Without {package}: node is missing, or {node_modules}/{package}")
    alone = _alone(mine, list(others.values()))
    console.print(_table(mine, others, alone))
    wrong = {number for number, _ in alone}
    console.print(f"{len(paths) - len(wrong)} of {len(paths)} messages: each property as at least one other reads it")
    for number, field in alone[:show]:
        console.print(f"[bold]{escape(str(paths[number].relative_to(folder)))}[/bold] {field}")
        readings = {"ours": mine[number], **{name: found[number] for name, found in others.items()}}
        for name, reading in readings.items():
            text = "raised an error" if reading is None else repr(getattr(reading, field))
            console.print(f"  {name:12} {escape(text[:_WIDTH])}", soft_wrap=True, highlight=False)


def _alone(mine: list[Reading], others: list[Sequence[Reading | None]]) -> list[tuple[int, str]]:
    """Messages and properties that no other parser reads as ours does."""
    return [
        (number, field)
        for number, reading in enumerate(mine)
        for field in Reading._fields
        if not any(_same(reading, found[number], field) for found in others)
    ]


def _same(reading: Reading, other: Reading | None, field: str) -> bool:
    return other is not None and bool(getattr(reading, field) == getattr(other, field))


def _table(mine: list[Reading], others: dict[str, Sequence[Reading | None]], alone: list[tuple[int, str]]) -> Table:
    table = Table("property", *others, "at least one", title=f"Of {len(mine)} messages, read as by")
    by_field = Counter(field for _, field in alone)
    for field in Reading._fields:
        counts = [
            sum(_same(reading, other, field) for reading, other in zip(mine, found, strict=True))
            for found in others.values()
        ]
        shares = [f"{count} ({count / len(mine):.1%})" for count in [*counts, len(mine) - by_field[field]]]
        table.add_row(field, *shares)
    return table


if __name__ == "__main__":
    main()
